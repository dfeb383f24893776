"""ggml's block types: a row of values is stored as blocks of a fixed number of values in a fixed number of bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BlockType:
    """One ggml type; `id` is what GGUF files hold (ggml.h, enum ggml_type)."""

    name: str
    id: int
    values: int  # per block; 1 for the plain floats and integers
    bytes: int  # per block

    @property
    def bits_per_value(self) -> float:
        return 8 * self.bytes / self.values

    def fits(self, row_values: int) -> bool:
        """Whether rows of `row_values` values are whole blocks."""
        return row_values % self.values == 0

    def row_bytes(self, row_values: int) -> int:
        if not self.fits(row_values):
            raise ValueError(f"rows of {row_values} values, {self.name} needs a multiple of {self.values}")
        return row_values // self.values * self.bytes


# Bytes per block, as ggml-common.h lays the structs out; "d" and "m" below are f16 scale and minimum. Q8_1 and Q8_K
# are not here: ggml makes them while it computes, no file holds them.
_ROWS = (
    ("F32", 0, 1, 4),
    ("F16", 1, 1, 2),
    ("Q4_0", 2, 32, 2 + 16),  # d, 4-bit values
    ("Q4_1", 3, 32, 4 + 16),  # d, m, 4-bit values
    ("Q5_0", 6, 32, 2 + 4 + 16),  # d, fifth bits, low 4 bits
    ("Q5_1", 7, 32, 4 + 4 + 16),
    ("Q8_0", 8, 32, 2 + 32),  # d, 8-bit values
    ("Q2_K", 10, 256, 16 + 64 + 4),  # 4-bit scales and minimums, 2-bit values, d and m
    ("Q3_K", 11, 256, 32 + 64 + 12 + 2),  # third bits, low 2 bits, 6-bit scales, d
    ("Q4_K", 12, 256, 4 + 12 + 128),  # d and m, 6-bit scales and minimums, 4-bit values
    ("Q5_K", 13, 256, 4 + 12 + 32 + 128),
    ("Q6_K", 14, 256, 128 + 64 + 16 + 2),  # low 4 bits, high 2 bits, 8-bit scales, d
    ("IQ2_XXS", 16, 256, 2 + 64),
    ("IQ2_XS", 17, 256, 2 + 64 + 8),
    ("IQ3_XXS", 18, 256, 2 + 96),
    ("IQ1_S", 19, 256, 2 + 32 + 16),
    ("IQ4_NL", 20, 32, 2 + 16),
    ("IQ3_S", 21, 256, 2 + 64 + 8 + 32 + 4),
    ("IQ2_S", 22, 256, 2 + 64 + 16),
    ("IQ4_XS", 23, 256, 2 + 2 + 4 + 128),
    ("I8", 24, 1, 1),
    ("I16", 25, 1, 2),
    ("I32", 26, 1, 4),
    ("I64", 27, 1, 8),
    ("F64", 28, 1, 8),
    ("IQ1_M", 29, 256, 32 + 16 + 8),
    ("BF16", 30, 1, 2),
    ("TQ1_0", 34, 256, 48 + 4 + 2),
    ("TQ2_0", 35, 256, 64 + 2),
    ("MXFP4", 39, 32, 1 + 16),  # shared exponent, 4-bit values
    ("NVFP4", 40, 64, 4 + 32),  # an 8-bit scale for each 16 values, 4-bit values
)

TYPES = {name: BlockType(name, number, values, size) for name, number, values, size in _ROWS}
BY_ID = {kind.id: kind for kind in TYPES.values()}

F32 = TYPES["F32"]
F16 = TYPES["F16"]
BF16 = TYPES["BF16"]
Q8_0 = TYPES["Q8_0"]
