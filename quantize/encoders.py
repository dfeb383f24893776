"""Which function encodes which ggml type, and what each cannot hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from quantize import floats, legacy

Encoder = Callable[[np.ndarray], np.ndarray]

ENCODERS: Mapping[str, Encoder] = {
    "F32": floats.f32,
    "F16": floats.f16,
    "BF16": floats.bf16,
    "Q8_0": legacy.q8_0,
}

OVERFLOW: Mapping[str, float] = {
    "F32": floats.F32_OVERFLOW,
    "F16": floats.F16_OVERFLOW,
    "BF16": floats.BF16_OVERFLOW,
    "Q8_0": floats.F16_OVERFLOW * 127,  # its float16 scale is max|x| / 127
}
"""From this absolute value on, an encoded value would read back as infinity."""
