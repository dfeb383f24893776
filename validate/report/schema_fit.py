"""The words of report.json about a file whose types were chosen for its size."""

from __future__ import annotations

from typing_extensions import TypedDict


class FitMeasured(TypedDict):
    """Mean KL on rows that nothing was calibrated on, and its 95 % confidence interval; `tokens` were read."""

    kl: float
    low: float
    high: float
    tokens: int


class FitCandidate(TypedDict):
    """A mix of types that was tried. `predicted` is mean KL where the types were chosen by gradients."""

    why: str
    predicted: float
    measured: FitMeasured | None


class FitMatrix(TypedDict):
    """A tensor whose type was chosen; `share` is its part of all that is predicted."""

    name: str
    type: str
    values: int
    bytes: int
    cost: float
    share: float


class FitEntry(TypedDict):
    """How the types of a file were chosen. `by` says by what: gradients, an importance matrix, or nothing."""

    asked: str  # like: Q4_K_M
    budget: int  # bytes
    bytes: int
    by: str
    why: str
    predicted: float
    measured: FitMeasured | None
    candidates: list[FitCandidate]
    matrices: list[FitMatrix]
