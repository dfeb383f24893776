"""The k-quants taken apart; their layouts are drawn in kquants_affine.py and kquants_symmetric.py."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from quantize.blocks import TYPES
from quantize.coded import Coded, Layout, as_bytes, half_bytes, halves, nibbles, packed_nibbles


def _twos(packed: np.ndarray) -> np.ndarray:
    """uint8 (count, 256) of 64 bytes: byte 32 h + l has values 128 h + l, + 32, + 64, + 96, the first lowest."""
    groups = packed.reshape(len(packed), 2, 1, 32)
    return np.asarray(np.concatenate([groups >> shift & 3 for shift in (0, 2, 4, 6)], 2)).reshape(len(packed), 256)


def _packed_twos(values: np.ndarray) -> np.ndarray:
    groups = values.reshape(len(values), 2, 4, 32)
    made = groups[:, :, 0] | groups[:, :, 1] << 2 | groups[:, :, 2] << 4 | groups[:, :, 3] << 6
    return np.asarray(made).reshape(len(values), 64)


def _highest_bits(packed: np.ndarray) -> np.ndarray:
    """uint8 (count, 256) of 32 bytes: bit j of byte l belongs to value 32 j + l."""
    bits = np.unpackbits(packed.reshape(-1, 32, 1), axis=2, bitorder="little")
    return np.ascontiguousarray(bits.transpose(0, 2, 1)).reshape(len(packed), 256)


def _packed_highest(bits: np.ndarray) -> np.ndarray:
    return np.packbits(bits.reshape(-1, 8, 32).transpose(0, 2, 1), axis=2, bitorder="little").reshape(-1, 32)


# -- Q2_K --------------------------------------------------------------------------------------------------------------


def _unpack_q2_k(blocks: np.ndarray) -> Coded:
    both = blocks[:, :16]
    return Coded(_twos(blocks[:, 16:80]), halves(blocks, 80), -halves(blocks, 82), both & 15, both >> 4)


def _pack_q2_k(coded: Coded) -> np.ndarray:
    both = as_bytes(coded.scales) | as_bytes(coded.minimums) << 4
    parts = both, _packed_twos(as_bytes(coded.levels)), half_bytes(coded.d), half_bytes(-coded.e)
    return np.concatenate(parts, 1)


# -- Q4_K, Q5_K --------------------------------------------------------------------------------------------------------


def _twelve(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eight scales and eight minimums of six bits, of 12 bytes: see _put_twelve."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, third & 15 | first >> 6 << 4], 1)
    return scales, np.concatenate([second & 63, third >> 4 | second >> 6 << 4], 1)


def _packed_twelve(scales: np.ndarray, minimums: np.ndarray) -> np.ndarray:
    (low, high), (least, most) = np.split(scales, 2, 1), np.split(minimums, 2, 1)
    parts = low | high >> 4 << 6, least | most >> 4 << 6, high & 15 | (most & 15) << 4
    return np.concatenate(parts, 1)


def _unpack_45(blocks: np.ndarray) -> Coded:
    levels = nibbles(blocks[:, -128:], 32)
    if blocks.shape[1] == TYPES["Q5_K"].bytes:
        levels = levels | _highest_bits(blocks[:, 16:48]) << 4
    scales, minimums = _twelve(blocks[:, 4:16])
    return Coded(levels, halves(blocks, 0), -halves(blocks, 2), scales, minimums)


def _pack_four(coded: Coded) -> np.ndarray:
    return _pack_45(coded, as_bytes(coded.levels), [])


def _pack_five(coded: Coded) -> np.ndarray:
    levels = as_bytes(coded.levels)
    return _pack_45(coded, levels & 15, [_packed_highest(levels >> 4)])


def _pack_45(coded: Coded, low_four: np.ndarray, fifth: list[np.ndarray]) -> np.ndarray:
    scales = _packed_twelve(as_bytes(coded.scales), as_bytes(coded.minimums))
    parts = half_bytes(coded.d), half_bytes(-coded.e), scales, *fifth, packed_nibbles(low_four, 32)
    return np.concatenate(parts, 1)


# -- Q3_K --------------------------------------------------------------------------------------------------------------


def _unpack_q3_k(blocks: np.ndarray) -> Coded:
    levels = _twos(blocks[:, 32:96]) | _highest_bits(blocks[:, :32]) << 2
    low, high = blocks[:, 96:104], blocks[:, 104:108]
    scales = np.concatenate([low & 15, low >> 4], 1) | np.concatenate([high >> s & 3 for s in (0, 2, 4, 6)], 1) << 4
    d = halves(blocks, 108)
    signed = scales.astype(np.float32) - np.float32(32)
    return Coded(levels.astype(np.float32) - np.float32(4), d, np.zeros_like(d), signed, np.zeros_like(signed))


def _pack_q3_k(coded: Coded) -> np.ndarray:
    levels, scales = as_bytes(coded.levels, -4), as_bytes(coded.scales, -32)
    top = scales >> 4
    high = top[:, :4] | top[:, 4:8] << 2 | top[:, 8:12] << 4 | top[:, 12:] << 6
    low = scales[:, :8] & 15 | (scales[:, 8:] & 15) << 4
    parts = _packed_highest(levels >> 2), _packed_twos(levels & 3), low, high, half_bytes(coded.d)
    return np.concatenate(parts, 1)


# -- Q6_K --------------------------------------------------------------------------------------------------------------


def _unpack_q6_k(blocks: np.ndarray) -> Coded:
    levels = nibbles(blocks[:, :128], 64) | _twos(blocks[:, 128:192]) << 4
    d, scales = halves(blocks, 208), np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    return Coded(levels.astype(np.float32) - np.float32(32), d, np.zeros_like(d), scales, np.zeros_like(scales))


def _pack_q6_k(coded: Coded) -> np.ndarray:
    levels = as_bytes(coded.levels, -32)
    scales = coded.scales.astype(np.int8).view(np.uint8)
    parts = packed_nibbles(levels & 15, 64), _packed_twos(levels >> 4), scales, half_bytes(coded.d)
    return np.concatenate(parts, 1)


LAYOUTS: Mapping[str, Layout] = {
    "Q2_K": Layout(TYPES["Q2_K"], 16, 0, 3, _unpack_q2_k, _pack_q2_k, (0, 15), (0, 15)),
    "Q3_K": Layout(TYPES["Q3_K"], 16, -4, 3, _unpack_q3_k, _pack_q3_k, (-32, 31)),
    "Q4_K": Layout(TYPES["Q4_K"], 32, 0, 15, _unpack_45, _pack_four, (0, 63), (0, 63)),
    "Q5_K": Layout(TYPES["Q5_K"], 32, 0, 31, _unpack_45, _pack_five, (0, 63), (0, 63)),
    "Q6_K": Layout(TYPES["Q6_K"], 16, -32, 31, _unpack_q6_k, _pack_q6_k, (-128, 127)),
}
