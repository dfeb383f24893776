"""Which function encodes which ggml type, and what each cannot hold.

numba is imported with the first type that needs it: what only asks for names and sizes does not wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Protocol

import numpy as np

from quantize import floats
from quantize.blocks import TYPES


class Encoder(Protocol):
    """uint8 (rows, row bytes) of float32 `values` (rows, n); `weights` (n,): how much an error in a column matters."""

    def __call__(self, values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray: ...


_MODULES: Mapping[str, tuple[str, ...]] = {
    "floats": ("F32", "F16", "BF16"),
    "legacy": ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
    "kquants": ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    "iquants": ("IQ4_NL", "IQ4_XS"),
    "ternary": ("TQ1_0", "TQ2_0"),
    "fp4": ("MXFP4", "NVFP4"),
    "iq1_quants": ("IQ1_S", "IQ1_M"),
    "codebook_quants": ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"),
}


def _encoder(module: str, name: str) -> Encoder:
    """The function called like the type in `module`, which is imported with the first call."""

    def encode(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        function: Encoder = getattr(import_module(f"quantize.{module}"), name.lower())
        return function(values, weights)

    encode.__name__ = name.lower()
    return encode


ENCODERS: Mapping[str, Encoder] = {name: _encoder(module, name) for module, names in _MODULES.items() for name in names}

# Where a block holds float16 numbers, which become infinity where a value is too large for the type (ggml-common.h).
_SCALES: Mapping[str, tuple[int, ...]] = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
    "IQ1_S": (0,),
    "IQ2_XXS": (0,),
    "IQ2_XS": (0,),
    "IQ2_S": (0,),
    "IQ3_XXS": (0,),
    "IQ3_S": (0,),
}

NEED_IMPORTANCE = frozenset({"IQ1_S", "IQ2_XXS", "IQ2_XS"})
"""Types whose encoders raise ValueError without importance (ggml.c, ggml_quantize_requires_imatrix)."""

OVERFLOW: Mapping[str, float] = {
    "F32": floats.F32_OVERFLOW,
    "F16": floats.F16_OVERFLOW,
    "BF16": floats.BF16_OVERFLOW,
}
"""From this absolute value on, a value of a plain type would read back as infinity."""

ALWAYS_FITS = 2.0**14
"""Below this absolute value everything fits every type. What a block type can hold from there on is seen by encoding:
its scales are fitted to all values of the block, and to their importance."""

TOO_SMALL: Mapping[str, float] = {"MXFP4": 2.0**-125}
"""Below this a block's largest value, unless it is 0, may get a scale that readers refuse: MXFP4's exponent of 255."""


def overflowing(name: str, encoded: np.ndarray) -> np.ndarray:
    """bool (rows, blocks): of which blocks of type `name` in `encoded` (rows, row bytes) the scale is no number."""
    blocks = encoded.reshape(len(encoded), -1, TYPES[name].bytes)
    if name == "MXFP4":
        return np.asarray(blocks[:, :, 0] == 255)
    if name == "IQ1_M":  # the four highest bits of d are those of the last word, the next four those before
        return np.asarray((blocks[:, :, 55] & 0x70 == 0x70) & (blocks[:, :, 53] & 0xC0 == 0xC0))
    found = np.zeros(blocks.shape[:2], bool)
    for at in _SCALES.get(name, ()):
        found |= ~np.isfinite(np.ascontiguousarray(blocks[:, :, at : at + 2]).view(np.float16)[:, :, 0])
    return found
