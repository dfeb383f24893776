"""float32 to the 16 bits of a float16 or bfloat16 and back: one number inside a kernel, or whole arrays."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import numpy as np

from quantize.simd import inlined, kernel
from quantize.simd32 import as_bits, as_float


@inlined
def half_bits(bits):
    """The float16 (uint32) nearest to the float32 of these bits, ties to even; too large is infinity.

    NaN becomes ggml's one NaN, 0x7e00 and the sign (ggml-impl.h, ggml_compute_fp32_to_fp16).
    """
    magnitude = bits & np.uint32(0x7FFFFFFF)
    # the last bit of a number in [0.5, 1) is 2**-24, as that of a denormal float16: the addition rounds
    denormal = as_bits(as_float(magnitude) + np.float32(0.5)) - np.uint32(0x3F000000)
    odd = (magnitude >> np.uint32(13)) & np.uint32(1)
    normal = (magnitude + odd + np.uint32(0xFFF) - np.uint32(112 << 23)) >> np.uint32(13)
    nearest = denormal if magnitude < np.uint32(0x38800000) else normal  # 2**-14, the least normal number
    nearest = np.uint32(0x7C00) if magnitude >= np.uint32(0x47800000) else nearest  # 65536
    nearest = np.uint32(0x7E00) if magnitude > np.uint32(0x7F800000) else nearest
    return (bits >> np.uint32(16) & np.uint32(0x8000)) | nearest


@inlined
def half(value):
    """The bits of the float16 nearest to the float32 `value`."""
    return np.uint16(half_bits(as_bits(value)))


@kernel
def to_float16(bits, out):
    """Fills `out` (uint16) with the float16 of the float32 in `bits` (uint32)."""
    for i in range(bits.size):
        out[i] = np.uint16(half_bits(bits[i]))


@kernel
def to_bfloat16(bits, out):
    """Fills `out` (uint16) with the bfloat16 of the float32 in `bits` (uint32).

    The upper half of a float32 is a bfloat16: adding 0x7fff and the lowest kept bit carries into it exactly when
    rounding must go up. NaN stays NaN, quiet (ggml-impl.h, ggml_compute_fp32_to_bf16).
    """
    for i in range(bits.size):
        upper = bits[i] >> np.uint32(16)
        nearest = (bits[i] + np.uint32(0x7FFF) + (upper & np.uint32(1))) >> np.uint32(16)
        nan = (bits[i] & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        out[i] = np.uint16((upper | np.uint32(64)) if nan else nearest)


@kernel
def from_float16(bits, out):
    """Fills `out` (uint32) with the float32 of the float16 in `bits` (uint16); exact."""
    for i in range(bits.size):
        wide = np.uint32(bits[i])
        magnitude = (wide & np.uint32(0x7FFF)) << np.uint32(13)
        exponent = np.uint32(112 << 23) if magnitude < np.uint32(0x1F << 23) else np.uint32(224 << 23)  # infinity, NaN
        # below 2**-14 there is no leading one: 2**-14 with these digits behind it, less 2**-14
        tiny = as_bits(as_float(magnitude | np.uint32(113 << 23)) - np.float32(2**-14))
        number = tiny if magnitude < np.uint32(1 << 23) else magnitude + exponent
        out[i] = number | (wide & np.uint32(0x8000)) << np.uint32(16)


@kernel
def from_bfloat16(bits, out):
    """Fills `out` (uint32) with the float32 of the bfloat16 in `bits` (uint16); exact."""
    for i in range(bits.size):
        out[i] = np.uint32(bits[i]) << np.uint32(16)


@kernel
def largest_magnitude(bits, mask):
    """The largest of `bits`, unsigned integers, without what `mask` takes away: the signs of floats.

    Without its sign, the bits of a float are in the order of the numbers; infinity is above them and NaN above that.
    """
    largest = bits[0] & mask
    for i in range(bits.size):
        largest = max(largest, bits[i] & mask)
    return largest
