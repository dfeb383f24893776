"""What other types of llama.cpp's key-value cache cost in drift and recall, and what they save in memory.

A candidate against itself: everything is compared with the same file's F32 cache without flash attention.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from validate import drift, kv_cache, memory, needles, statistics
from validate.kv_cache import EXACT, CacheDrift, CacheQuestion, CacheRow, CacheSize, CacheTypes, Needles
from validate.measurement import Measurement
from validate.measures.base import RunningCandidate, SessionMeasure
from validate.needles import Haystack
from validate.runtimes.base import Ability, Session

NEEDLE_SECONDS = 900.0  # of all long texts of one output, where the recipe does not say how long they are to be
READ_AT_ONCE = 512  # tokens between two words of progress
_GROWS = 2.2  # what a text of twice the length takes, of the time of one


class KvCache(SessionMeasure):
    """Asked where a recipe names `kv_cache`, of outputs whose runtime can make caches of several types."""

    PART = "KV cache"
    PLACE = 58
    NEEDS = (Ability.CACHE_TYPES,)

    def is_asked(self, running: RunningCandidate) -> bool:
        return self.questions.kv_cache is not None and running.candidate.compares_caches

    def without(self, running: RunningCandidate, ability: Ability) -> None:
        """Nothing was found."""

    def measure(self, running: RunningCandidate) -> None:
        question, session = self.questions.kv_cache, running.session
        assert question is not None  # is_asked
        limit = _limit(session, max(map(len, self._windows)))
        rows = [_sized(session, types, limit) for types in (EXACT, *question.rows)]
        stopped = ""
        if len(_possible(rows)) > 1 and rows[0] in _possible(rows):
            self._read_windows(running, rows)
            lengths = needles.lengths(limit, question.longest)
            stopped = self._read_needles(running, rows, lengths, question.longest is None)
        _conclude(running.result, question, rows, limit, stopped)

    # ---- windows

    @property
    def _windows(self) -> Sequence[Sequence[int]]:
        """The text, of which those who read on read the first step."""
        return self.questions.windows[: self.questions.ends_of_steps[0]]

    def _read_windows(self, running: RunningCandidate, rows: Sequence[_Row]) -> None:
        possible = _possible(rows)[1:]
        total = sum(map(len, self._windows)) * (1 + len(possible))
        self.begin(running, total, "tok")
        for tokens in self._windows:
            wanted = running.session.logits(tokens)
            self.progress.advance(len(tokens))
            for row in possible:
                running.session.open_cache(row.types, len(tokens))
                got = running.session.read_cached(tokens, range(len(tokens)))
                row.kl.append(drift.kl(wanted, got))
                row.same_top.append(wanted.argmax(1) == got.argmax(1))
                self.progress.advance(len(tokens))

    # ---- long texts

    def _read_needles(
        self, running: RunningCandidate, rows: Sequence[_Row], lengths: Sequence[int], until_late: bool
    ) -> str:
        """Each length in every cache; why it stopped before the last, empty where it did not."""
        began = time.monotonic()
        for number, length in enumerate(lengths):
            text = needles.haystack(self.reference, length)
            if text is None:
                return f"{length} tokens have no room for two facts and the questions"
            if why := _no_memory(running.session, [row.types for row in _possible(rows)], length):
                return why
            start = time.monotonic()
            self._read_length(running, rows, text, length)
            took, left = time.monotonic() - start, NEEDLE_SECONDS - (time.monotonic() - began)
            if until_late and number + 1 < len(lengths) and took * _growth(lengths, number) > left:
                minutes = took * _growth(lengths, number) / 60
                return (
                    f"{lengths[number + 1]:,} tokens would take about {minutes:.0f} minutes here; "
                    f"with longest: {lengths[-1]} under kv_cache they are read all the same"
                )
        return ""

    def _read_length(self, running: RunningCandidate, rows: Sequence[_Row], text: Haystack, length: int) -> None:
        possible = _possible(rows)
        what = f"{running.candidate.label}: {self.PART}, facts in {length:,} tokens"
        self.progress.start(what, len(text.tokens) * len(possible), "tok")
        exact: np.ndarray | None = None
        for row in possible:
            got = self._answers(running.session, row.types, text)
            hits, log_probability = needles.found(text, got)
            kl = None if exact is None else float(drift.kl(exact, got).mean())
            exact = got if exact is None else exact
            row.needles.append(Needles(length, len(text.answers), hits, log_probability, kl))

    def _answers(self, session: Session, types: CacheTypes, text: Haystack) -> np.ndarray:
        """Logits (wanted, vocab) of the places that a text's answers are expected at."""
        session.open_cache(types, len(text.tokens))
        parts = []
        for start in range(0, len(text.tokens), READ_AT_ONCE):
            tokens = text.tokens[start : start + READ_AT_ONCE]
            here = [place - start for place in text.wanted if start <= place < start + len(tokens)]
            parts.append(session.read_cached(tokens, here))
            self.progress.advance(len(tokens))
        return np.concatenate(parts)


@dataclass
class _Row:
    """What is known so far of one pair of types."""

    types: CacheTypes
    at_1k: CacheSize
    at_limit: CacheSize
    kl: list[np.ndarray] = field(default_factory=list)
    same_top: list[np.ndarray] = field(default_factory=list)
    needles: list[Needles] = field(default_factory=list)


def _possible(rows: Iterable[_Row]) -> list[_Row]:
    return [row for row in rows if not row.at_limit.refused]


def _sized(session: Session, types: CacheTypes, limit: int) -> _Row:
    at_1k, at_limit = (session.cache_size(types, tokens) for tokens in (kv_cache.SIZED_TOKENS, limit))
    if not at_limit.refused and not at_limit.cache_bytes:
        at_limit = CacheSize(0, refused="the model keeps no K and V")
    return _Row(types, at_1k, at_limit)


def _limit(session: Session, least: int) -> int:
    """Tokens that the model was made for; those of a window where the file does not say."""
    stated = session.settings().values.get("max_position_embeddings")
    return max(stated, least) if isinstance(stated, int) else least


def _no_memory(session: Session, every: Sequence[CacheTypes], length: int) -> str:
    """Why a text is not read: the largest of its caches has no room; empty where it has, or nobody knows."""
    free = memory.free_bytes()
    sizes = {types: session.cache_size(types, length) for types in every}
    types, needed = max(((t, s.cache_bytes + s.compute_bytes) for t, s in sizes.items()), key=lambda pair: pair[1])
    if free is None or needed <= free * memory.FREE_SHARE:
        return ""
    words = f"the {types} cache of {length:,} tokens and its buffers take {needed / 1e9:.1f} GB"
    return f"{words}, and {free / 1e9:.1f} GB are free: a fifth of that is left alone"


def _growth(lengths: Sequence[int], number: int) -> float:
    """How many times as long the next length takes as this one: attention grows faster than the text."""
    return float(lengths[number + 1] / lengths[number]) * _GROWS / 2


# ---- what it comes to


def _conclude(result: Measurement, question: CacheQuestion, rows: Sequence[_Row], limit: int, stopped: str) -> None:
    """Write the rows, and the metrics of the worst of the types that were asked for."""
    compared = [row for row in rows if row.kl]
    blocks = statistics.Blocks.of([len(part) for part in compared[0].kl] if compared else [])
    draws = {row.types: _draws(row, blocks) for row in compared}
    found = [_entry(row, question, draws.get(row.types, {})) for row in rows]
    result.kv_cache = CacheDrift(limit, len(blocks.labels), found, stopped)
    asked = [row for row in compared if row.types in question.types]
    if not asked:
        return
    furthest, least = max(asked, key=_kl), min(asked, key=_top1)
    metrics = {"kv_cache_kl": _kl(furthest), "kv_cache_top1": _top1(least)}
    drawn = {"kv_cache_kl": draws[furthest.types].get("kl"), "kv_cache_top1": draws[least.types].get("top1")}
    if rows[0].needles:
        metrics["kv_cache_recall_drop"] = max(_drop(rows[0], row) for row in asked)
    result.add(metrics, {name: values for name, values in drawn.items() if values is not None})


def _draws(row: _Row, blocks: statistics.Blocks) -> dict[str, np.ndarray]:
    kl, top1 = np.concatenate(row.kl), np.concatenate(row.same_top)
    found = {"kl": np.maximum(blocks.means(kl), 0.0), "top1": np.clip(blocks.means(top1), 0.0, 1.0)}
    return {name: values for name, values in found.items() if len(values)}


def _entry(row: _Row, question: CacheQuestion, draws: Mapping[str, np.ndarray]) -> CacheRow:
    types = row.types
    entry = CacheRow(types.k, types.v, types.flash_attention, types in question.types, reason=row.at_limit.refused)
    if entry.reason:
        return entry
    low, high = statistics.interval(draws["kl"]) if "kl" in draws else (None, None)
    return replace(
        entry,
        bytes_1k=row.at_1k.cache_bytes,
        bytes_limit=row.at_limit.cache_bytes,
        kl=_kl(row) if row.kl else None,
        kl_low=low,
        kl_high=high,
        top1=_top1(row) if row.kl else None,
        needles=tuple(row.needles),
    )


def _kl(row: _Row) -> float:
    return float(np.concatenate(row.kl).mean())


def _top1(row: _Row) -> float:
    return float(np.concatenate(row.same_top).mean())


def _drop(exact: _Row, row: _Row) -> float:
    """The share of facts that the exact cache finds minus what this one does, at the length where that is most."""
    pairs = zip(exact.needles, row.needles, strict=True)
    return max((one.found - other.found) / one.asked for one, other in pairs)


MEASURE = KvCache
