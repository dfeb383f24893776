"""IQ4_NL and IQ4_XS taken apart; their layouts are drawn in iquants.py."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from quantize.blocks import TYPES
from quantize.coded import Coded, Layout, as_bytes, half_bytes, halves, nibbles, ones, packed_nibbles
from quantize.iquants import LEVELS

_LEVELS = np.array(LEVELS, np.float32)
_PAIRS = np.arange(8)


def _indexes(levels: np.ndarray) -> np.ndarray:
    return np.searchsorted(_LEVELS, levels).astype(np.uint8)


def _unpack_nl(blocks: np.ndarray) -> Coded:
    d = halves(blocks, 0)
    return Coded(_LEVELS[nibbles(blocks[:, 2:], 16)], d, np.zeros_like(d), ones(len(d)), ones(len(d)))


def _pack_nl(coded: Coded) -> np.ndarray:
    return np.concatenate([half_bytes(coded.d), packed_nibbles(_indexes(coded.levels), 16)], 1)


def _unpack_xs(blocks: np.ndarray) -> Coded:
    d, high = halves(blocks, 0), np.ascontiguousarray(blocks[:, 2:4]).view("<u2")
    low = nibbles(blocks[:, 4:8, None].reshape(-1, 1), 1).reshape(-1, 8)
    scales = (low | (high >> 2 * _PAIRS & 3) << 4).astype(np.float32) - np.float32(32)
    return Coded(_LEVELS[nibbles(blocks[:, 8:], 16)], d, np.zeros_like(d), scales, np.zeros_like(scales))


def _pack_xs(coded: Coded) -> np.ndarray:
    scales = as_bytes(coded.scales, -32)
    high = ((scales >> 4).astype("<u2") << 2 * _PAIRS).sum(1, dtype="<u2")[:, None].view(np.uint8)
    low = packed_nibbles((scales & 15).reshape(-1, 2), 1).reshape(-1, 4)
    return np.concatenate([half_bytes(coded.d), high, low, packed_nibbles(_indexes(coded.levels), 16)], 1)


LAYOUTS: Mapping[str, Layout] = {
    "IQ4_NL": Layout(TYPES["IQ4_NL"], 32, -127, 113, _unpack_nl, _pack_nl, table=LEVELS),
    "IQ4_XS": Layout(TYPES["IQ4_XS"], 32, -127, 113, _unpack_xs, _pack_xs, (-32, 31), table=LEVELS),
}
