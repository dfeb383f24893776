"""IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS and IQ3_S: groups of 8 or 4 values as entries of a codebook, with signs beside.

Every encoder returns uint8 (rows, n / 256 * bytes) of float32 `values` (rows, n), n a multiple of 256, and takes the
importance of each column as float32 `weights` (n,); without it IQ2_XXS and IQ2_XS are refused, as ggml does. The bytes
are those of ggml_quantize_chunk. Where ggml would stop the program, because numbers became infinite, the super-block's
scale is infinite. The first call compiles for some seconds; the machine code is then kept on disk.

Layouts, little-endian (ggml-common.h). A block is 16 or 32 values; its scale is d * (2 * l + 1), l four bits:

    IQ2_XXS  d float16; of each 32 values: four numbers of entries, then a word: four times 7 signs, l highest
    IQ2_XS   d; 32 times number (9 bits) and 7 signs in two bytes; of 16 values each, l in half a byte
    IQ2_S    d; 32 numbers' low 8 bits; 32 times 8 signs; the numbers' high 2 bits; l in halves of bytes
    IQ3_XXS  d; 64 numbers; of each 32 values a word: four times 7 signs, l highest
    IQ3_S    d; 64 numbers' low 8 bits; their ninth bits; 32 times 8 signs; l in halves of bytes

Seven signs are enough for eight values where the number of negative ones is even.
Source: ggml-quants.c, quantize_row_iq2_xxs_impl ... quantize_row_iq3_s_impl.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantize.codebook_search import ALL, ALL_OR_NONE, THOSE_OFF_GRID, search_2, search_3
from quantize.codebooks import codebook
from quantize.superblocks import VALUES, SuperBlocks, Weighing, encode, largest_of, nibbles, scales_of


@dataclass(frozen=True)
class _Search:
    """How ggml searches the blocks of a type."""

    name: str
    block: int  # values
    size: int  # values in a group
    steps: tuple[int, float]  # scales tried: so many on each side of the first, so far apart
    again: int
    even: bool = False  # seven signs are kept of eight
    least: float = 1e-15  # a block whose largest value is below is zeros

    @property
    def trials(self) -> np.ndarray:
        """float32: what the largest value of a block is mapped to, one after the other."""
        count, apart = self.steps
        first = np.float32(5 if self.size == 8 else 15)
        return np.asarray(first + np.arange(-count, count + 1).astype(np.float32) * np.float32(apart))


_IQ2_XXS = _Search("IQ2_XXS", 32, 8, (6, 0.1), ALL, even=True)
_IQ2_XS = _Search("IQ2_XS", 16, 8, (9, 0.1), THOSE_OFF_GRID, even=True)
_IQ2_S = _Search("IQ2_S", 16, 8, (9, 0.1), THOSE_OFF_GRID, least=1e-8)
_IQ3_XXS = _Search("IQ3_XXS", 32, 4, (15, 0.2), THOSE_OFF_GRID, even=True, least=1e-8)
_IQ3_S = _Search("IQ3_S", 32, 4, (9, 0.2), ALL_OR_NONE, least=1e-45)  # the least float32: zeros only


def iq2_xxs(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """IQ2_XXS: 256 entries of 8 values, 2.0625 bits a value."""
    return encode("IQ2_XXS", _pack_iq2_xxs, Weighing(1), values, weights)


def iq2_xs(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """IQ2_XS: 512 entries of 8 values, 2.3125 bits a value."""
    return encode("IQ2_XS", _pack_iq2_xs, Weighing(1), values, weights)


def iq2_s(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """IQ2_S: 1024 entries of 8 values, 2.5625 bits a value."""
    return encode("IQ2_S", _pack_iq2_s, Weighing(2, 0.25), values, weights)


def iq3_xxs(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """IQ3_XXS: 256 entries of 4 values, 3.0625 bits a value."""
    return encode("IQ3_XXS", _pack_iq3_xxs, Weighing(2, 0), values, weights)


def iq3_s(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """IQ3_S: 512 entries of 4 values, 3.4375 bits a value."""
    return encode("IQ3_S", _pack_iq3_s, Weighing(2, 0), values, weights)


def _search(some: SuperBlocks, how: _Search) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every super-block the numbers of entries (uint16), the signs (a byte of 8 values) and its blocks' scales."""
    book, kernel = codebook(how.name), search_2 if how.size == 8 else search_3
    rows = len(some.values)
    numbers = np.empty((rows, VALUES // how.size), np.uint16)
    signs = np.empty((rows, VALUES // 8), np.uint8)
    scales = np.empty((rows, VALUES // how.block), np.float32)
    kernel(
        some.kernel_input(how.block),
        (how.block, how.trials, np.float32(how.least), how.even, how.again),
        book.arrays,
        (numbers.reshape(-1).view(np.uint8), signs.reshape(-1), scales.reshape(-1)),
    )
    return numbers, signs, scales


def _words(signs: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """uint8 (rows, 8, 4): of each 32 values a word with four times 7 signs, the first lowest, and a level above."""
    four = signs.reshape(len(signs), -1, 4).astype(np.uint32) << np.arange(0, 28, 7, dtype=np.uint32)
    words = np.bitwise_or.reduce(four, axis=2) | levels.astype(np.uint32) << 28
    return np.asarray(words.astype("<u4").view(np.uint8).reshape(len(signs), -1, 4))


def _pack_iq2_xxs(some: SuperBlocks) -> np.ndarray:
    numbers, signs, scales = _search(some, _IQ2_XXS)
    d, levels = scales_of(scales, 31, 1, 15)
    blocks = np.concatenate([numbers.astype(np.uint8).reshape(len(d), -1, 4), _words(signs, levels)], axis=2)
    blocks[largest_of(scales) == 0] = 0
    return np.concatenate([d, blocks.reshape(len(d), -1)], axis=1)


def _pack_iq2_xs(some: SuperBlocks) -> np.ndarray:
    numbers, signs, scales = _search(some, _IQ2_XS)
    d, levels = scales_of(scales, 31, 1, 15)
    entries = (numbers | signs.astype(np.uint16) << 9).astype("<u2").view(np.uint8)
    entries[largest_of(scales) == 0] = 0
    return np.concatenate([d, entries, nibbles(levels)], axis=1)


def _pack_iq2_s(some: SuperBlocks) -> np.ndarray:
    numbers, signs, scales = _search(some, _IQ2_S)
    d, levels = scales_of(scales, 31, 0.9875, 15)
    high = (numbers >> 8).astype(np.uint8).reshape(len(d), -1, 4) << np.arange(0, 8, 2, dtype=np.uint8)
    parts = [d, numbers.astype(np.uint8), signs, np.bitwise_or.reduce(high, axis=2), nibbles(levels)]
    return np.concatenate(parts, axis=1)


def _pack_iq3_xxs(some: SuperBlocks) -> np.ndarray:
    numbers, signs, scales = _search(some, _IQ3_XXS)
    d, levels = scales_of(scales, 31, 1.0125, 15)
    rest = np.concatenate([numbers.astype(np.uint8), _words(signs, levels).reshape(len(d), -1)], axis=1)
    rest[largest_of(scales) == 0] = 0
    return np.concatenate([d, rest], axis=1)


def _pack_iq3_s(some: SuperBlocks) -> np.ndarray:
    numbers, signs, scales = _search(some, _IQ3_S)
    d, levels = scales_of(scales, 31, 1.033, 15)
    ninth = np.packbits(numbers.astype(np.uint16) > 255, axis=1, bitorder="little")
    low, signs = (
        _behind_each_other(part.reshape(len(d), scales.shape[1], -1), some.values)
        for part in (numbers.astype(np.uint8), signs)
    )
    return np.concatenate([d, low, ninth, signs, nibbles(levels)], axis=1)


def _behind_each_other(parts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """uint8 (rows, n) of the parts of blocks (rows, blocks, ...), those of blocks of zeros moved to the end.

    ggml's encoder does not step over the place of a block that is all zeros, though its decoder and the ninth bits do.
    """
    zeros = ~values.reshape(len(parts), parts.shape[1], -1).any(axis=2)
    if zeros.any():
        order = np.argsort(zeros, axis=1, kind="stable")
        parts = np.take_along_axis(parts, order[:, :, None], axis=1)
    return parts.reshape(len(parts), -1)
