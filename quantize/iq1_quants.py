"""IQ1_S and IQ1_M: groups of 8 values as entries of a codebook of three levels, an eighth up or down.

Every encoder returns uint8 (rows, n / 256 * bytes) of float32 `values` (rows, n), n a multiple of 256, and takes the
importance of each column as float32 `weights` (n,); without it IQ1_S is refused, as ggml does. The bytes are those of
ggml_quantize_chunk. Where ggml would stop the program, because numbers became infinite, the super-block's scale is
infinite. The first call compiles for some seconds; the machine code is then kept on disk.

Layouts, little-endian (ggml-common.h). Numbers of entries have 11 bits, l three; a block's scale is d * (2 * l + 1):

    IQ1_S  d float16; 32 numbers' low 8 bits; of each 32 values two bytes: four times the numbers' high 3 bits,
           l, and whether the levels are an eighth down
    IQ1_M  32 numbers' low 8 bits; of each 16 values a byte: the high 3 bits and whether down, twice;
           four times two bytes: l of four blocks of 16 values, and above them 4 bits of d

Source: ggml-quants.c, quantize_row_iq1_s_impl and quantize_row_iq1_m_impl.
"""

from __future__ import annotations

import numpy as np

from quantize.codebooks import codebook
from quantize.iq1_search import EIGHTH, final_sums, search_m, search_s
from quantize.superblocks import VALUES, SuperBlocks, Weighing, encode, largest_of, nibbles, scales_of


def iq1_s(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """IQ1_S: 1.5625 bits a value."""
    return encode("IQ1_S", _pack_iq1_s, Weighing(2), values, weights)


def iq1_m(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """IQ1_M: 1.75 bits a value."""
    return encode("IQ1_M", _pack_iq1_m, Weighing(2, 0), values, weights)


def _search(some: SuperBlocks, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every super-block the numbers of entries (uint16), and its blocks' directions (uint8) and scales."""
    book, rows = codebook("IQ1_S"), len(some.values)
    numbers = np.empty((rows, VALUES // 8), np.uint16)
    directions = np.empty((rows, VALUES // block), np.uint8)
    scales = np.empty((rows, VALUES // block), np.float32)
    kernel = search_s if block == 32 else search_m
    kernel(
        some.kernel_input(block),
        book.arrays,
        (numbers.reshape(-1).view(np.uint8), directions.reshape(-1), scales.reshape(-1)),
    )
    return numbers, directions, scales


def _pack_iq1_s(some: SuperBlocks) -> np.ndarray:
    numbers, down, scales = _search(some, 32)
    d, levels = scales_of(scales, 15, 1.125, 7)
    down[largest_of(scales) == 0] = 0
    high = (numbers >> 8).reshape(len(d), -1, 4) << np.arange(0, 12, 3, dtype=np.uint16)
    words = np.bitwise_or.reduce(high, axis=2) | (levels | down << 3).astype(np.uint16) << 12
    return np.concatenate([d, numbers.astype(np.uint8), words.astype("<u2").view(np.uint8)], axis=1)


def _pack_iq1_m(some: SuperBlocks) -> np.ndarray:
    numbers, directions, scales = _search(some, 16)
    _, levels = scales_of(scales, 15, 1, 7)
    largest = largest_of(scales)
    down = np.stack([directions >> 1, directions & 1], axis=2)  # of each half
    d = _final_scale(some, numbers, down.reshape(numbers.shape), levels, largest / np.float32(15))
    d = (d * np.float32(1.1125)).astype("<f2").view("<u2")
    high = (numbers >> 8).astype(np.uint8).reshape(down.shape)
    d[largest == 0], down[largest == 0] = 0, 0
    high |= (down << 3).astype(np.uint8)
    words = levels.astype(np.uint16).reshape(len(d), 4, 4) << np.arange(0, 12, 3, dtype=np.uint16)
    words = np.bitwise_or.reduce(words, axis=2) | d[:, None] >> np.arange(0, 16, 4, dtype=np.uint16) << 12
    high = nibbles(high.reshape(len(d), -1))
    return np.concatenate([numbers.astype(np.uint8), high, words.astype("<u2").view(np.uint8)], axis=1)


def _final_scale(
    some: SuperBlocks, numbers: np.ndarray, down: np.ndarray, levels: np.ndarray, scale: np.ndarray
) -> np.ndarray:
    """float32 (super-blocks,): what fits all values best; `scale` where it is infinite or all weights are zero."""
    words = codebook("IQ1_S").words[numbers].view(np.float32)
    shifts = EIGHTH - np.float32(0.25) * down.astype(np.float32)
    odds = np.repeat(2 * levels.astype(np.float32) + 1, 2, axis=1)
    product, square = np.empty_like(scale), np.empty_like(scale)
    final_sums(
        some.kernel_input(VALUES),
        words.reshape(-1),
        shifts.reshape(-1),
        odds.reshape(-1),
        (product, square),
    )
    return np.where((square > 0) & np.isfinite(scale), product / square, scale)
