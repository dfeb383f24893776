"""The block types of 32 values taken apart; their layouts are drawn in legacy.py."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from quantize.blocks import TYPES
from quantize.coded import Coded, Layout, as_bytes, half_bytes, halves, nibbles, ones, packed_nibbles


def _four_or_five(name: str) -> Layout:
    bits, affine = int(name[1]), name.endswith("_1")
    low = 0 if affine else -(1 << bits - 1)
    start = 4 if affine else 2

    def unpack(blocks: np.ndarray) -> Coded:
        count = len(blocks)
        levels = nibbles(blocks[:, -16:], 16)
        if bits == 5:
            levels = levels | np.unpackbits(blocks[:, start : start + 4], axis=1, bitorder="little") << 4
        d = halves(blocks, 0)
        e = halves(blocks, 2) if affine else np.zeros_like(d)
        return Coded(levels.astype(np.float32) + np.float32(low), d, e, ones(count), ones(count))

    def pack(coded: Coded) -> np.ndarray:
        levels = as_bytes(coded.levels, low)
        parts = [half_bytes(coded.d), *([half_bytes(coded.e)] if affine else [])]
        if bits == 5:
            parts.append(np.packbits(levels >> 4, axis=1, bitorder="little"))
        return np.concatenate([*parts, packed_nibbles(levels & 15, 16)], 1)

    return Layout(TYPES[name], 32, low, low + (1 << bits) - 1, unpack, pack, minimums=(int(affine), int(affine)))


def _unpack_q8_0(blocks: np.ndarray) -> Coded:
    d = halves(blocks, 0)
    levels = np.ascontiguousarray(blocks[:, 2:]).view(np.int8).astype(np.float32)
    return Coded(levels, d, np.zeros_like(d), ones(len(d)), ones(len(d)))


def _pack_q8_0(coded: Coded) -> np.ndarray:
    return np.concatenate([half_bytes(coded.d), coded.levels.astype(np.int8).view(np.uint8)], 1)


LAYOUTS: Mapping[str, Layout] = {
    **{name: _four_or_five(name) for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1")},
    # -128 is written by nobody: readers may negate levels
    "Q8_0": Layout(TYPES["Q8_0"], 32, -127, 127, _unpack_q8_0, _pack_q8_0),
}
