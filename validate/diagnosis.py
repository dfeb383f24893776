"""What is wrong with a tensor that is not its source's, rounded: arrays in, words out.

`measure` compares a piece of a tensor; `suspects` says which tensors of a file lose more than their type rounds; and
`explain` tries simple hypotheses on one of those, each of which a converter has got wrong once.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

BLOCK = 32  # values that share a scale in most formats
LIKE = 0.9  # cosine from which on two lists of values are taken for one another
PARTLY = 0.7  # cosine from which on most of a tensor is as it should be
SHOWN = 3  # rows that are named
ROWS_COMPARED = 1 << 11  # of a matrix, when another order is looked for
GAIN_HIGH, GAIN_LOW = 1.6, -0.2  # of a block that holds more than half of what blocks do in the middle

# What a type may lose: below the first, nothing is said; above the second, always; between them where it is also
# three times what the others of its type lose in the middle. Measured: Q8_0 0.006, Q6_K 0.02, Q4_K 0.075, Q2_K 0.3;
# GPTQ moves weights on purpose, so that what layers give stays as it was.
ROUNDING: Mapping[str, tuple[float, float]] = {
    "F32": (1e-5, 1e-3),
    "FP32": (1e-5, 1e-3),
    "F16": (2e-3, 2e-2),
    "FP16": (2e-3, 2e-2),
    "BF16": (6e-3, 2e-2),
    "F8": (0.05, 0.12),
    "INT8": (0.03, 0.12),
    "GPTQ": (0.3, 0.7),
    "AWQ": (0.2, 0.4),
    "INT4": (0.2, 0.35),
    "Q8": (0.015, 0.06),
    "Q6": (0.04, 0.12),
    "Q5": (0.08, 0.2),
    "Q4": (0.14, 0.35),
    "IQ4": (0.14, 0.35),
    "MXFP4": (0.2, 0.4),
    "NVFP4": (0.15, 0.35),
    "W4": (0.2, 0.35),
    "W8": (0.03, 0.12),
    "Q3": (0.3, 0.5),
    "IQ3": (0.3, 0.5),
    "TQ": (1.1, 1.3),  # of weights that are not -1, 0 and 1 most become 0: all that can be lost
    "*": (0.6, 0.9),
}
EXACT_ENOUGH = ("F32", "FP32", "F16", "FP16", "BF16", "F8", "INT8", "INT4", "Q8", "Q6", "Q5", "Q4", "IQ4", "Q3", "Q2_K")


@dataclass(frozen=True)
class Piece:
    """Sums over a piece of a tensor. `low` and `high` are the least and the largest gain of a block of 32 values."""

    values: int
    squared_error: float
    squared_source: float
    finite: bool
    low: float
    high: float


@dataclass(frozen=True)
class Measured:
    """A whole tensor: its name, type, and error relative to the source's root mean square."""

    name: str
    type: str
    values: int
    error: float
    finite: bool
    low: float
    high: float


def measure_piece(stored: np.ndarray, source: np.ndarray) -> Piece:
    """The sums of a piece, both float32 of one shape. Sums of a block are float32's, of blocks float64's."""
    finite = bool(np.isfinite(stored).all())
    stored = stored if finite else np.where(np.isfinite(stored), stored, np.float32(0))
    difference = stored - source
    low, high = _gains(stored, source)
    return Piece(stored.size, _power(difference), _power(source), finite, low, high)


def _power(values: np.ndarray) -> float:
    """The sum of the squares."""
    flat = values.reshape(-1)
    whole = len(flat) - len(flat) % BLOCK
    blocks = flat[:whole].reshape(-1, BLOCK)
    ends = flat[whole:].astype(np.float64)
    return float(np.einsum("ij,ij->i", blocks, blocks).sum(dtype=np.float64) + np.vdot(ends, ends))


def measured(name: str, kind: str, pieces: Iterable[Piece]) -> Measured:
    """The tensor that the pieces make."""
    found = list(pieces)
    error, source = sum(p.squared_error for p in found), sum(p.squared_source for p in found)
    relative = math.sqrt(error / source) if source else math.inf if error else 0.0
    low, high = min((p.low for p in found), default=1.0), max((p.high for p in found), default=1.0)
    return Measured(name, kind, sum(p.values for p in found), relative, all(p.finite for p in found), low, high)


def _gains(stored: np.ndarray, source: np.ndarray) -> tuple[float, float]:
    """The least and largest factor of a block of a row; (1, 1) where rows are shorter than a block."""
    if source.ndim < 2 or source.shape[-1] % BLOCK:
        return 1.0, 1.0
    a, b = stored.reshape(-1, BLOCK), source.reshape(-1, BLOCK)
    power = np.einsum("ij,ij->i", b, b)
    whole = power >= max(0.25 * float(np.median(power)), np.finfo(np.float32).tiny)
    if not whole.any():
        return 1.0, 1.0
    gain = np.einsum("ij,ij->i", a, b)[whole] / power[whole]
    return float(gain.min()), float(gain.max())


# ---- which tensors


def suspects(found: Sequence[Measured]) -> dict[str, str]:
    """Name -> how it differs from others of its type, of every tensor that lost more than its type rounds."""
    return {one.name: words for one in found if (words := _suspicion(one, found))}


def _suspicion(one: Measured, found: Sequence[Measured]) -> str:
    others = [m.error for m in found if m.type == one.type and m.name != one.name and math.isfinite(m.error)]
    middle = statistics.median(others) if others else 0.0
    soft, hard = ROUNDING[max((k for k in ROUNDING if one.type.upper().startswith(k)), key=len, default="*")]
    least = f", others of {one.type} have {middle:.3g} in the middle" if others else ""
    if not one.finite:
        return "holds numbers that are not finite"
    if one.error > hard or (one.error > soft and one.error > 3 * middle):
        return f"error {one.error:.3g}{least}"
    fine = one.type.upper().startswith(EXACT_ENOUGH)
    if fine and (one.high > GAIN_HIGH or one.low < GAIN_LOW):
        return (
            f"a block is {one.high if one.high > GAIN_HIGH else one.low:.3g} times the source's, error {one.error:.3g}"
        )
    return ""


# ---- what happened to one


def explain(
    stored: np.ndarray, source: np.ndarray, others: Mapping[str, Callable[[], np.ndarray]] | None = None
) -> str:
    """What was done to `source` to get `stored`, "" where no hypothesis fits; `others` are the file's other sources.

    Both float32 of one shape: (rows, columns), (experts, rows, columns), (values,), or a convolution's
    (filters, channels, rows, columns).
    """
    a, b = stored.astype(np.float64), source.astype(np.float64)
    for hypothesis in (_not_finite, _zeroed, _scaled, _experts, _kernels, _transposed, _rows, _columns):
        if words := hypothesis(a, b):
            return words
    if words := _of_another(a, others or {}):
        return words
    return _in_places(a, b) or _offset(a, b)


def _like(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of two arrays taken as lists of numbers."""
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.vdot(a, b)) / norms if norms else 0.0


def _not_finite(a: np.ndarray, b: np.ndarray) -> str:
    del b
    wrong = np.argwhere(~np.isfinite(a))
    if not len(wrong):
        return ""
    place = ", ".join(map(str, wrong[0]))
    return f"{len(wrong)} values are NaN or infinite, the first at [{place}]"


def _zeroed(a: np.ndarray, b: np.ndarray) -> str:
    return "all its values are zero" if not a.any() and b.any() else ""


def _scaled(a: np.ndarray, b: np.ndarray) -> str:
    """One factor for all values, the sign included."""
    power = float(np.vdot(b, b))
    if not power or abs(_like(a, b)) < LIKE:
        return ""
    gain = float(np.vdot(a, b)) / power
    if gain < 0:
        return "it is negated" if abs(gain + 1) < 0.1 else f"it is multiplied by {gain:.3g}"
    if 0.8 < gain < 1.25:
        return ""
    return f"it is multiplied by {gain:.3g}"


def _experts(a: np.ndarray, b: np.ndarray) -> str:
    """Of tensors with experts, the ones that are wrong."""
    if a.ndim != 3:
        return ""
    said = []
    for number, (mine, own) in enumerate(zip(a, b, strict=True)):
        if _like(mine, own) > LIKE and not _scaled(mine, own):
            continue
        twin = next((i for i, other in enumerate(b) if i != number and _like(mine, other) > LIKE), None)
        words = f"it is that of expert {twin}" if twin is not None else explain(mine, own)
        said.append(f"expert {number}: {words or 'other values'}")
    return "; ".join(said[:SHOWN]) + (f" and {len(said) - SHOWN} more experts" if len(said) > SHOWN else "")


def _kernels(a: np.ndarray, b: np.ndarray) -> str:
    """Of a convolution over images, or over images and frames, an axis that is not the source's."""
    if a.ndim not in (4, 5):
        return ""
    if a.shape[-1] == a.shape[-2] and _like(a, b.swapaxes(-1, -2)) > LIKE > _like(a, b):
        return "the rows and columns of its kernels are exchanged"
    names = ("filters", "channels", *(("frames",) if a.ndim == 5 else ()), "rows", "columns")
    for axis, name in enumerate(names):
        mine, own = (np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1) for x in (a, b))
        if words := _reordered(mine, own, name):
            return words
    return ""


def _transposed(a: np.ndarray, b: np.ndarray) -> str:
    if a.ndim != 2:
        return ""
    turned = b.T.reshape(a.shape)
    return "it is transposed" if _like(a, turned) > LIKE > _like(a, b) else ""


def _rows(a: np.ndarray, b: np.ndarray) -> str:
    """The rows of the source, or the values of a vector, in another order."""
    if a.ndim == 1:
        same = len(a) > 1 and np.allclose(np.sort(a), np.sort(b), rtol=0.02, atol=1e-6)
        return "its values are in another order" if same and _like(a, b) < 0.999 else ""
    said = _reordered(a, b, "rows") if a.ndim == 2 else ""
    looks_so = "; a permutation for rotary positions that is missing looks so"
    return f"{said}{looks_so}" if "another order" in said else said


def _columns(a: np.ndarray, b: np.ndarray) -> str:
    return _reordered(a.T, b.T, "columns") if a.ndim == 2 else ""


def _reordered(a: np.ndarray, b: np.ndarray, what: str) -> str:
    if len(a) > ROWS_COMPARED or len(a) < 2:
        return _exchanged(a, b, what)
    own = np.linalg.norm(b, axis=1)
    mine = np.linalg.norm(a, axis=1)
    if not (own.all() and mine.any()):
        return ""
    cosines = (a / np.maximum(mine, 1e-30)[:, None]) @ (b / own[:, None]).T
    best = cosines.argmax(1)
    sure = cosines.max(1) > LIKE
    moved = sure & (best != np.arange(len(a))) & (cosines.diagonal() < LIKE)
    if sure.mean() < LIKE or not moved.any():
        return ""
    if moved.mean() < 0.1:
        pairs = [f"{i} is the source's {best[i]}" for i in np.flatnonzero(moved)[:SHOWN]]
        return f"{what} are exchanged: {what[:-1]} {', '.join(pairs)}"
    first = np.flatnonzero(moved)[0]
    return f"its {what} are in another order ({what[:-1]} {first} is the source's {best[first]})"


def _exchanged(a: np.ndarray, b: np.ndarray, what: str) -> str:
    """A few rows of a large table that are others': only those that differ are looked at."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(1) / np.maximum(norms, 1e-30)
    off = np.flatnonzero((cosine < LIKE) & (norms > 0))
    if not 0 < len(off) <= 64:
        return ""
    pairs = [f"{i} is the source's {j}" for i in off for j in off if i != j and _like(a[i], b[j]) > LIKE]
    return f"{what} are exchanged: {what[:-1]} {', '.join(pairs[:SHOWN])}" if pairs else ""


def _of_another(a: np.ndarray, others: Mapping[str, Callable[[], np.ndarray]]) -> str:
    """The values of another tensor of the checkpoint, which has the same shape."""
    likest, best = "", LIKE
    for name, load in others.items():
        other = load()
        if other.shape == a.shape and (cosine := _like(a, other)) > best:
            likest, best = name, cosine
    return f"it holds the values of {likest}" if likest else ""


def _offset(a: np.ndarray, b: np.ndarray) -> str:
    """A constant added to every value, or in each block or row its own: zero points that are off."""
    difference = a - b
    power = float(np.vdot(difference, difference)) / max(1, difference.size)
    if not power:
        return ""
    whole = float(difference.mean())
    if abs(whole) > 0.9 * math.sqrt(power):
        return f"{whole:.3g} is added to every value" + (", as zero points that are off do" if a.ndim == 2 else "")
    if a.ndim == 2 and a.shape[1] % BLOCK == 0:
        blocks = difference.reshape(-1, BLOCK).mean(1)
        if float(np.mean(blocks * blocks)) > 0.7 * power:
            return "a constant is added in each block, as zero points that are off by one do"
    return ""


def _in_places(a: np.ndarray, b: np.ndarray) -> str:
    """What is wrong in a part of the tensor alone."""
    if a.ndim != 2 or a.shape[1] % BLOCK or _like(a, b) < PARTLY:
        return ""
    mine, own = a.reshape(len(a), -1, BLOCK), b.reshape(len(b), -1, BLOCK)
    power = (own * own).sum(2)
    gain = (mine * own).sum(2) / np.maximum(power, 1e-30)
    heavy = power >= 0.25 * np.median(power)
    wrong = np.argwhere(heavy & ((gain > GAIN_HIGH) | (gain < GAIN_LOW) | (np.abs(mine).sum(2) == 0)))
    if not len(wrong) or len(wrong) > 0.5 * gain.size:
        return ""
    row, block = (int(n) for n in wrong[0])
    start = block * BLOCK
    more = f", and {len(wrong) - 1} blocks more" if len(wrong) > 1 else ""
    return f"row {row}, columns {start} to {start + BLOCK - 1} are {gain[row, block]:.3g} times the source's{more}"
