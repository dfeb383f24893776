"""How far one runtime's logits are from the reference's, position by position, and what that comes to over a text."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from validate.compressed_logits import CompressedLogits
from validate.logits import NotComparable, check_finite, chunks, exponentials
from validate.statistics import Blocks, interval

__all__ = [
    "NotComparable",
    "Summary",
    "WindowDrift",
    "check_finite",
    "compare",
    "kl",
    "largest_difference",
    "summarize",
]

SHARES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 1.0)  # of KL's quantiles


@dataclass(frozen=True)
class WindowDrift:
    """Differences of one window, a value a position. The last position has no next token in the window."""

    kl: np.ndarray  # float64 (token,) KL(reference || candidate), nats
    same_top: np.ndarray  # bool (token,)
    top5: np.ndarray  # float64 (token,) share of the reference's five most likely tokens among the candidate's five
    logit_abs: np.ndarray  # float64 (token,) largest |difference| of a logit, of the tokens that were kept
    nll_reference: np.ndarray  # float64 (token - 1,) -ln p of the text's own next token
    nll_candidate: np.ndarray  # float64 (token - 1,)

    @property
    def p_change(self) -> np.ndarray:
        """(token - 1,) what the candidate adds to the probability of the text's own next token."""
        return np.asarray(np.exp(-self.nll_candidate) - np.exp(-self.nll_reference))


# ---- one window


def compare(reference: CompressedLogits, candidate_tv: np.ndarray, tokens: Sequence[int]) -> WindowDrift:
    """Differences at every position of one window; a part of KL is estimated where the reference is not whole.

    `candidate_tv` are logits (token, vocab) of the same `tokens`. Everything is computed in float64, a few rows at a
    time. Raises NotComparable for other shapes and for any NaN or infinity.
    """
    _check_shapes((reference.count, reference.vocab), candidate_tv)
    if reference.count != len(tokens):
        raise NotComparable(f"logits of {reference.count} positions for {len(tokens)} tokens")
    next_ids = np.asarray(tokens[1:], np.int64)
    parts = [_compare_rows(reference, candidate_tv, next_ids, here) for here in chunks(*candidate_tv.shape)]
    return WindowDrift(*(np.concatenate([vars(p)[f.name] for p in parts]) for f in fields(WindowDrift)))


@dataclass(frozen=True)
class _Rows:
    """Some positions of the candidate, worked on in float64."""

    logits: np.ndarray  # (token, vocab)
    exp: np.ndarray  # (token, vocab), of the logit minus the largest
    largest: np.ndarray  # (token,)
    logsumexp: np.ndarray  # (token,)


def _compare_rows(
    reference: CompressedLogits, candidate_tv: np.ndarray, next_ids: np.ndarray, here: slice
) -> WindowDrift:
    part = candidate_tv[here]
    check_finite(part, "the candidate's", here.start)
    rows = _Rows(part, *exponentials(part))
    if reference.whole:
        kl, logit_abs = _whole(reference.logits[here], reference.logsumexp[here], part, rows.logsumexp)
    else:
        kl, logit_abs = _grouped(reference, here, rows)
    scored, likely = next_ids[here], reference.likely[here]
    return WindowDrift(
        kl=kl,
        same_top=likely[:, 0] == part.argmax(1),
        top5=_shared(likely, part),
        logit_abs=logit_abs,
        nll_reference=reference.nll[here],
        nll_candidate=rows.logsumexp[: len(scored)] - part[np.arange(len(scored)), scored],
    )


def _whole(
    reference_tv: np.ndarray, reference_sum: np.ndarray, candidate_tv: np.ndarray, candidate_sum: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """KL and the largest difference of a logit, over the whole vocabulary."""
    p = np.subtract(reference_tv, reference_sum[:, None], dtype=np.float64)
    np.exp(p, out=p)
    change = np.subtract(reference_tv, candidate_tv, dtype=np.float64)
    largest = np.maximum(change.max(1), -change.min(1))
    change -= (reference_sum - candidate_sum)[:, None]  # ln p - ln q
    # Rounding can leave a sum of zeros at -1e-17; KL is never negative.
    return np.maximum(np.einsum("tv,tv->t", p, change), 0.0), largest


def _grouped(reference: CompressedLogits, here: slice, rows: _Rows) -> tuple[np.ndarray, np.ndarray]:
    """The same over the tokens that were kept, all others taken as one; `rows.exp` is used up."""
    starts = reference.starts[here.start : here.stop + 1]
    kept, places = slice(starts[0], starts[-1]), starts[:-1] - starts[0]
    row = np.repeat(np.arange(len(places)), np.diff(starts))
    ids, wanted = reference.ids[kept], reference.logits[kept].astype(np.float64)
    got = rows.logits[row, ids].astype(np.float64)
    logp = wanted - reference.logsumexp[here][row]
    kl = np.add.reduceat(np.exp(logp) * (logp - (got - rows.logsumexp[row])), places)
    rows.exp[row, ids] = 0
    log_p = np.maximum(reference.log_rest[here], np.log(_LEAST))
    log_q = np.log(np.maximum(rows.exp.sum(1), _LEAST)) + rows.largest - rows.logsumexp
    kl += np.exp(log_p) * (log_p - log_q + _among_others(reference, here, rows, log_p, log_q))
    return np.maximum(kl, 0.0), np.maximum.reduceat(np.abs(wanted - got), places)


_LEAST = np.finfo(float).tiny  # stands for a mass of 0, whose logarithm is none
_ROUNDING = 1e-24  # a spread this small is no drift, and would give any slope
_MOST = 300.0  # of ln r: exp of more does not fit into a float64 when squared


def _among_others(
    reference: CompressedLogits, here: slice, rows: _Rows, log_p: np.ndarray, log_q: np.ndarray
) -> np.ndarray:
    """(token,) KL among the tokens that were not kept, estimated from the reference's sample of them.

    The mean of -ln r over the sample, r = q/p, is that KL; the mean of r - 1 is known to be 0. Where all drift a little
    the two are nearly opposite, so a multiple of the latter takes nearly all noise from the former (control variates;
    Owen, Monte Carlo theory, methods and examples, 8.9). The multiple is regression's, of the sample's other half: of
    the same one it would bring the estimate down by a hundredth.
    """
    ids = reference.sample_ids[here].astype(np.int64)
    wanted = reference.sample_logits[here] - (reference.logsumexp[here] + log_p)[:, None]
    log_r = np.take_along_axis(rows.logits, ids, 1) - (rows.logsumexp + log_q)[:, None] - wanted
    log_r = log_r.reshape(len(ids), 2, -1)
    more = np.expm1(np.minimum(log_r, _MOST))
    centred = more - more.mean(2, keepdims=True)
    spread = (centred**2).sum(2)
    slope = np.divide((centred * log_r).sum(2), spread, out=np.ones_like(spread), where=spread > _ROUNDING)
    return np.asarray((slope[:, ::-1] * more.mean(2) - log_r.mean(2)).mean(1))


def _shared(likely: np.ndarray, candidate_tv: np.ndarray) -> np.ndarray:
    """(token,) share of the tokens `likely` (token, five) that are among as many most likely ones of the candidate.

    Among equals the lower id comes first, as it does in `likely`.
    """
    number = likely.shape[1]
    found = np.empty(likely.shape)
    for row, ids, out in zip(candidate_tv, likely, found, strict=True):
        for j, id_ in enumerate(ids):
            before = np.count_nonzero(row > row[id_]) + np.count_nonzero(row[:id_] == row[id_])
            out[j] = before < number
    return np.asarray(found.mean(1))


def kl(reference_tv: np.ndarray, candidate_tv: np.ndarray) -> np.ndarray:
    """(token,) KL between two arrays of logits (token, vocab); raises NotComparable as `compare` does."""
    _check_shapes(reference_tv.shape, candidate_tv)
    found = [np.empty(0)]
    for here in chunks(*reference_tv.shape):
        wanted, got = reference_tv[here], candidate_tv[here]
        check_finite(wanted, "the reference's", here.start)
        check_finite(got, "the candidate's", here.start)
        found.append(_whole(wanted, exponentials(wanted)[2], got, exponentials(got)[2])[0])
    return np.concatenate(found)


def largest_difference(one: np.ndarray, other: np.ndarray, who: str = "the candidate's") -> float:
    """The largest |difference| of two arrays of logits of one side; raises NotComparable as `compare` does."""
    if one.shape != other.shape:
        raise NotComparable(f"{who} logits have shapes {one.shape} and {other.shape}, read at once and one at a time")
    for logits in (one, other):
        check_finite(logits, who)
    return float(np.abs(one.astype(np.float64) - other).max())


def _check_shapes(wanted: tuple[int, ...], candidate_tv: np.ndarray) -> None:
    if candidate_tv.shape != wanted:
        raise NotComparable(
            f"logits have shape {candidate_tv.shape}, the reference's {wanted} (token, vocab): "
            "the two vocabularies are not the same"
        )


# ---- a text


@dataclass(frozen=True)
class Summary:
    """Numbers over all positions; `intervals` and `draws` of those that can be resampled."""

    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    draws: Mapping[str, np.ndarray]
    quantiles: Sequence[tuple[float, float]]  # share of the positions, the KL that they have at most


QUANTILES = {"kl_median": 0.5, "kl_p95": 0.95, "kl_p99": 0.99, "kl_p999": 0.999}
RESAMPLED = frozenset({"kl_mean", *QUANTILES, "top1", "top5", "p_rms", "p_p99", "ppl_ratio", "ppl_change"})
"""The metrics that have an interval once enough text was read."""


def summarize(windows: Sequence[WindowDrift], resampled: Collection[str] = RESAMPLED) -> Summary:
    """The drift and the perplexities over all windows; intervals of the metrics `resampled` names.

    Perplexity is exp of the mean negative log-likelihood over every token of every window but its first; the ratio is
    of pairs, token by token, whose differences are a hundred times smaller than either's spread. Raises NotComparable
    when there is no window, or no token to score.
    """
    if not windows:
        raise NotComparable("no window of text was compared")
    values = {f.name: np.concatenate([vars(w)[f.name] for w in windows]) for f in fields(WindowDrift)}
    kl, reference, candidate = values["kl"], values["nll_reference"], values["nll_candidate"]
    if not len(candidate):
        raise NotComparable("no token has one before it in its window: nothing to score")
    change = np.concatenate([w.p_change for w in windows])
    more = candidate - reference
    ratio = float(np.exp(more.mean()))
    metrics = {
        "positions": len(kl),
        "tokens": len(candidate),
        "kl_mean": kl.mean(),
        **dict(zip(QUANTILES, np.quantile(kl, list(QUANTILES.values())), strict=True)),
        "kl_max": kl.max(),
        "top1": values["same_top"].mean(),
        "top5": values["top5"].mean(),
        "p_rms": np.sqrt(np.mean(change**2)),
        "p_p99": np.quantile(np.abs(change), 0.99),
        "logit_max_abs": values["logit_abs"].max(),
        "ppl": np.exp(candidate.mean()),
        "ppl_reference": np.exp(reference.mean()),
        "ppl_ratio": ratio,
        "ppl_change": abs(ratio - 1),
    }
    draws = _draws(Blocks.of([len(w.kl) for w in windows]), {**values, "change": change, "more": more}, resampled)
    intervals = {name: interval(drawn) for name, drawn in draws.items()}
    if "ppl_ratio" in intervals:  # of |ratio - 1|, which draws on either side of 1 never bring near 0
        low, high = (bound - 1 for bound in intervals["ppl_ratio"])
        intervals["ppl_change"] = max(0.0, low, -high), max(high, -low)
    quantiles = [(share, float(value)) for share, value in zip(SHARES, np.quantile(kl, SHARES), strict=True)]
    return Summary({name: float(value) for name, value in metrics.items()}, intervals, draws, quantiles)


def _draws(blocks: Blocks, values: Mapping[str, np.ndarray], wanted: Collection[str]) -> dict[str, np.ndarray]:
    """Each metric over resampled texts; those are left out of which there are too few blocks or positions."""
    kl, change = values["kl"], values["change"]
    scored = blocks.labels[blocks.scored]
    shares = {name: share for name, share in QUANTILES.items() if name in wanted}  # sorting takes longest by far
    quantiles = blocks.quantiles(kl, list(shares.values())) if shares else []
    p_p99 = blocks.quantiles(np.abs(change), [0.99], scored)[0] if "p_p99" in wanted else np.empty(0)
    ratio = np.exp(blocks.means(values["more"], scored))
    draws = {
        "kl_mean": np.maximum(blocks.means(kl), 0.0),
        **{name: np.maximum(drawn, 0.0) for name, drawn in zip(shares, quantiles, strict=True)},
        "top1": np.clip(blocks.means(values["same_top"]), 0.0, 1.0),
        "top5": np.clip(blocks.means(values["top5"]), 0.0, 1.0),
        "p_rms": np.sqrt(np.maximum(blocks.means(change**2, scored), 0.0)),
        "p_p99": np.maximum(p_p99, 0.0),
        "ppl_ratio": ratio,
        "ppl_change": np.abs(ratio - 1),
    }
    return {name: drawn for name, drawn in draws.items() if len(drawn)}
