"""The triangular factor that GPTQ carries errors with, made in the memory of the matrix that it is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SMALL = 256  # columns that LAPACK inverts at once
STRIPE = 2048  # columns of a product at a time: it is written where it was read from


def inverse_factor(matrix: Tensor) -> Tensor | None:
    """Upper triangular U with U.T @ U the inverse of `matrix`, in its memory; None where that has no such factor.

    `matrix` (n, n) is symmetric, contiguous, and used up. With its rows and columns in reverse order it is M @ M.T, M
    lower triangular, and U is the inverse of M in reverse order: one factoring and one triangular inverse, where the
    inverse itself, factored again, would be twice the work, three matrices, and less exact.
    """
    import torch

    _reverse(matrix)
    lower = matrix.mT  # LAPACK's order of values: worked on as it stands
    failed = torch.empty((), dtype=torch.int32)
    torch.linalg.cholesky_ex(lower, out=(lower, failed))
    if failed:
        return None
    _invert(lower)
    _reverse(matrix)
    return matrix.mT


def _reverse(matrix: Tensor) -> None:
    """Rows and columns in reverse order, in place: all values from the last to the first."""
    values = matrix.view(-1)
    half, step = len(values) // 2, 1 << 22
    for start in range(0, half, step):
        size = min(step, half - start)
        low, high = values[start : start + size], values[len(values) - start - size : len(values) - start]
        kept = low.flip(0)
        low.copy_(high.flip(0))
        high.copy_(kept)


def _invert(lower: Tensor) -> None:
    """A lower triangular matrix becomes its inverse: of [[A, 0], [B, C]] it is [[a, 0], [-c B a, c]]."""
    import torch

    size = len(lower)
    if size <= SMALL:
        lower.copy_(torch.linalg.solve_triangular(lower, torch.eye(size, dtype=lower.dtype), upper=False))
        return
    half = size // 2
    above, beside, below = lower[:half, :half], lower[half:, :half], lower[half:, half:]
    _invert(above)
    _invert(below)
    for start in range(0, half, STRIPE):  # from the left: a stripe of the product needs what stands right of it
        stripe = slice(start, min(start + STRIPE, half))
        beside[:, stripe] = beside[:, start:] @ above[start:, stripe]
    for end in range(size - half, 0, -STRIPE):  # from below: a stripe needs what stands above it
        stripe = slice(max(0, end - STRIPE), end)
        beside[stripe] = below[stripe, :end] @ beside[:end]
    beside.neg_()
