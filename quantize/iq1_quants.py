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
from quantize.iq1_search import search_s
from quantize.superblocks import VALUES, SuperBlocks, Weighing, encode, scales_of


def iq1_s(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """IQ1_S: 1.5625 bits a value."""
    return encode("IQ1_S", _pack_iq1_s, Weighing(2), values, weights)


def _search(some: SuperBlocks, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every super-block the numbers of entries (uint16), and its blocks' directions (uint8) and scales."""
    book, rows = codebook("IQ1_S"), len(some.values)
    numbers = np.empty((rows, VALUES // 8), np.uint16)
    directions = np.empty((rows, VALUES // block), np.uint8)
    scales = np.empty((rows, VALUES // block), np.float32)
    search_s(
        (some.values.reshape(-1), some.weights.reshape(-1)),
        (book.lists, book.members, book.codes, book.words),
        (numbers.reshape(-1).view(np.uint8), directions.reshape(-1), scales.reshape(-1)),
    )
    return numbers, directions, scales


def _pack_iq1_s(some: SuperBlocks) -> np.ndarray:
    numbers, down, scales = _search(some, 32)
    d, levels = scales_of(scales, 15, 1.125, 7)
    levels |= np.where((scales > 0).any(axis=1, keepdims=True), down << 3, 0).astype(np.uint8)
    high = (numbers >> 8).reshape(len(d), -1, 4) << np.arange(0, 12, 3, dtype=np.uint16)
    words = np.bitwise_or.reduce(high, axis=2) | levels.astype(np.uint16) << 12
    return np.concatenate([d, numbers.astype(np.uint8), words.astype("<u2").view(np.uint8)], axis=1)
