"""Integers of a few bits in the int32 words of GPTQ's and AWQ's checkpoints, and back.

The layouts are told in quantize/gptq_layout.py and quantize/awq_layout.py. Integers come and go as (rows, columns) or
(rows, groups), rows being outputs: as quantizers make them. Every function raises ValueError where a value does not
fit its bits or a length does not fill whole words.
"""

from __future__ import annotations

import math

import numpy as np

GPTQ_BITS = (2, 3, 4, 8)
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbours stands at bits 4 i of a word (AutoAWQ, awq/modules/linear/gemm.py)."""
WORD = 32


def gptq_weights(integers: np.ndarray, bits: int) -> np.ndarray:
    """int32 (columns * bits / 32, rows): `qweight` of integers (rows, columns)."""
    return np.ascontiguousarray(_stream(integers, bits).T)


def gptq_integers(qweight: np.ndarray, bits: int) -> np.ndarray:
    """uint8 (rows, columns) of a `qweight`."""
    return _unstream(np.ascontiguousarray(qweight.T), bits)


def gptq_zeros(zeros: np.ndarray, bits: int, version: int = 1) -> np.ndarray:
    """int32 (groups, rows * bits / 32): `qzeros` of zero points (rows, groups).

    Version 1 (`checkpoint_format: gptq`) stores each less one, so it has none for 0: ValueError; version 2 (`gptq_v2`)
    stores them as they are.
    """
    stored = np.asarray(zeros, np.int64) - _less(version)
    if stored.size and stored.min() < 0:
        raise ValueError(
            "a zero point is 0, which GPTQ's first format cannot store; write gptq_v2, or quantize with zero points "
            "from 1 on"
        )
    return _stream(stored.T, bits)


def gptq_zero_points(qzeros: np.ndarray, bits: int, version: int = 1) -> np.ndarray:
    """uint16 (rows, groups) of a `qzeros`; 256 where version 1 stores 255."""
    stored = _unstream(qzeros, bits).astype(np.uint16)
    return np.ascontiguousarray((stored + np.uint16(_less(version))).T)


def awq_words(integers: np.ndarray) -> np.ndarray:
    """int32 (columns, rows / 8): AWQ's `qweight` of integers (rows, columns), or `qzeros` of zeros (rows, groups)."""
    values = np.asarray(integers).T
    if values.shape[1] % 8:
        raise ValueError(f"{values.shape[1]} rows do not fill words of eight")
    _check_range(values, 4)
    eights = values.reshape(len(values), -1, 8)[:, :, list(AWQ_ORDER)]
    return _words(eights.astype(np.uint32), 4)


def awq_integers(words: np.ndarray) -> np.ndarray:
    """uint8 (rows, columns) or (rows, groups) of AWQ's `qweight` or `qzeros`."""
    stored = _fields(words, 4)
    back = np.argsort(AWQ_ORDER)
    return np.ascontiguousarray(stored[:, :, back].reshape(len(words), -1).T)


def _less(version: int) -> int:
    if version not in (1, 2):
        raise ValueError(f"GPTQ's formats are 1 (gptq) and 2 (gptq_v2), not {version}")
    return 2 - version


def _check_range(values: np.ndarray, bits: int) -> None:
    if values.size and (values.min() < 0 or values.max() >= 1 << bits):
        raise ValueError(f"values reach from {values.min()} to {values.max()}; {bits} bits hold 0 to {(1 << bits) - 1}")


def _stream(values: np.ndarray, bits: int) -> np.ndarray:
    """int32 (n, m * bits / 32) of values (n, m): each row a stream of bits, the first value the lowest."""
    if bits not in GPTQ_BITS:
        raise ValueError(f"GPTQ's layout knows {', '.join(map(str, GPTQ_BITS))} bits, not {bits}")
    values = np.asarray(values)
    _check_range(values, bits)
    whole = WORD // math.gcd(WORD, bits)
    if values.shape[1] % whole:
        raise ValueError(f"{values.shape[1]} values of {bits} bits a line: the layout takes multiples of {whole}")
    if WORD % bits == 0:
        return _words(values.reshape(len(values), -1, WORD // bits).astype(np.uint32), bits)
    return _bit_stream(np.ascontiguousarray(values, np.uint8), bits)


def _unstream(words: np.ndarray, bits: int) -> np.ndarray:
    if bits not in GPTQ_BITS:
        raise ValueError(f"GPTQ's layout knows {', '.join(map(str, GPTQ_BITS))} bits, not {bits}")
    if WORD % bits == 0:
        return _fields(words, bits).reshape(len(words), -1)
    loose = np.unpackbits(_bytes(words), axis=1, bitorder="little").reshape(len(words), -1, bits)
    return np.packbits(loose, axis=2, bitorder="little")[:, :, 0]


def _words(fields: np.ndarray, bits: int) -> np.ndarray:
    """int32 (n, words) of uint32 (n, words, 32 / bits)."""
    out = np.zeros(fields.shape[:2], np.uint32)
    for i in range(fields.shape[2]):
        out |= fields[:, :, i] << np.uint32(bits * i)
    return out.view(np.int32)


def _fields(words: np.ndarray, bits: int) -> np.ndarray:
    """uint8 (n, words, 32 / bits) of int32 (n, words)."""
    shifts = np.arange(0, WORD, bits, dtype=np.uint32)
    fields = (np.ascontiguousarray(words).view(np.uint32)[:, :, None] >> shifts) & np.uint32((1 << bits) - 1)
    return fields.astype(np.uint8)


def _bit_stream(values: np.ndarray, bits: int) -> np.ndarray:
    loose = np.unpackbits(values[:, :, None], axis=2, count=bits, bitorder="little").reshape(len(values), -1)
    return np.packbits(loose, axis=1, bitorder="little").view("<i4").astype(np.int32)


def _bytes(words: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(words, "<i4").view(np.uint8)
