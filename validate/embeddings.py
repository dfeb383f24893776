"""How far a candidate's embeddings or scores of some texts are from the reference's, and whether they rank as its do.

An encoder predicts no next token, so that KL, top1 and perplexity do not apply to it: what it is used for is to compare
texts, by the cosine of their vectors, or to sort them by a classifier's score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from validate.logits import NotComparable

TEXT, EMBEDDINGS, SCORES = "text", "embeddings", "scores"  # what a model gives
INSTEAD = {
    EMBEDDINGS: "The model gives embeddings and predicts no next token: KL, top1 and perplexity do not apply",
    SCORES: "The model gives scores and predicts no next token: KL, top1 and perplexity do not apply",
}
TOLD_APART = 0.05  # of the spread: two texts that the reference puts closer together may stand in any order
FEWEST = 3  # texts that an order can be asked of


@dataclass(frozen=True)
class EmbeddingDrift:
    """What was found of a candidate over all texts; of scores there is no cosine, of embeddings no error."""

    gives: str
    texts: int
    width: int  # values of an embedding, or scores
    agreement: float  # share of the pairs that the reference tells apart which the candidate puts in its order
    pairs: int
    worst: str  # the beginning of the text that changed most
    cosine_min: float | None = None
    cosine_mean: float | None = None
    error: float | None = None
    largest: float | None = None  # difference of any score

    @property
    def metrics(self) -> dict[str, float]:
        """By the names of metrics.py."""
        named = {
            "embedding_cosine": self.cosine_min,
            "embedding_cosine_mean": self.cosine_mean,
            "score_error": self.error,
        }
        return {"rank_agreement": self.agreement, **{name: v for name, v in named.items() if v is not None}}


def compare(gives: str, reference: np.ndarray, candidate: np.ndarray, texts: Sequence[str]) -> EmbeddingDrift:
    """Of embeddings or scores (text, value) of both sides. Raises NotComparable where there is nothing to compare."""
    if reference.shape != candidate.shape:
        got = f"{candidate.shape[1]} values of a text where the source gives {reference.shape[1]}"
        raise NotComparable(got)
    for who, values in (("the source's", reference), ("the candidate's", candidate)):
        if not np.isfinite(values).all():
            raise NotComparable(f"{who} {gives} are not finite")
    if len(reference) < FEWEST:
        raise NotComparable(f"{len(reference)} texts, wanted at least {FEWEST} to see an order")
    of = _scores if gives == SCORES else _embeddings
    return of(reference.astype(np.float64), candidate.astype(np.float64), texts)


def cosines(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """(text,) of embeddings (text, value)."""
    found: np.ndarray = (_unit(reference) * _unit(candidate)).sum(1)
    return found


def _embeddings(reference: np.ndarray, candidate: np.ndarray, texts: Sequence[str]) -> EmbeddingDrift:
    near = cosines(reference, candidate)
    agreement, pairs = _agreement(*(_similarities(values) for values in (reference, candidate)))
    return EmbeddingDrift(
        EMBEDDINGS,
        len(texts),
        reference.shape[1],
        agreement,
        pairs,
        texts[int(near.argmin())],
        cosine_min=float(near.min()),
        cosine_mean=float(near.mean()),
    )


def _scores(reference: np.ndarray, candidate: np.ndarray, texts: Sequence[str]) -> EmbeddingDrift:
    apart = np.abs(candidate - reference)
    spread = max(float(reference.std(0).max()), float(np.finfo(np.float32).tiny))
    agreement, pairs = _agreement(reference.T, candidate.T)
    return EmbeddingDrift(
        SCORES,
        len(texts),
        reference.shape[1],
        agreement,
        pairs,
        texts[int(apart.max(1).argmax())],
        error=float(np.sqrt((apart**2).mean()) / spread),
        largest=float(apart.max()),
    )


def _unit(values: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    found: np.ndarray = values / np.where(lengths > 0, lengths, 1)
    return found


def _similarities(values: np.ndarray) -> np.ndarray:
    """(text, other text): of each text its cosine with every other one."""
    unit = _unit(values)
    count = len(unit)
    found: np.ndarray = (unit @ unit.T)[~np.eye(count, dtype=bool)].reshape(count, count - 1)
    return found


def _agreement(reference: np.ndarray, candidate: np.ndarray) -> tuple[float, int]:
    """Of rows of numbers to sort by: the share of pairs in a row in the same order, of those told apart; their number.

    Where the reference tells none apart there is no order to keep: 1.
    """
    exact = reference[:, :, None] - reference[:, None, :]
    got = candidate[:, :, None] - candidate[:, None, :]
    told = exact > TOLD_APART * reference.std(1)[:, None, None]
    pairs = int(told.sum())
    return (float((got[told] > 0).mean()) if pairs else 1.0), pairs
