"""What compressed-tensors makes of a matrix (rows = outputs, columns = inputs): the tensors, their values, and back.

    float-quantized       weight F8_E4M3 (rows, columns)        weight_scale (1,), (rows, 1) or (row, column blocks)
    int-quantized         weight I8 (rows, columns)             weight_scale (rows, 1)
    pack-quantized        weight_packed I32, weight_shape I64   weight_scale (rows, groups), weight_zero_point I32
    nvfp4-pack-quantized  weight_packed U8 (rows, columns / 2)  weight_scale F8_E4M3 (rows, columns / 16),
                                                                weight_global_scale, input_global_scale F32 (1,)
    mxfp4-pack-quantized  weight_packed U8 (rows, columns / 2)  weight_scale U8 (rows, columns / 32)

weight_scale has the type the matrix was stored in, where none is said. Source: compressed-tensors 0.20, compressors/;
vLLM, quantization/compressed_tensors/schemes/, which reads the same names and shapes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

Spec = tuple[str, tuple[int, ...]]  # a safetensors dtype and a shape
Shape = tuple[int, ...]
Parts = Mapping[str, np.ndarray]  # suffix -> values; bfloat16 as its 16 bits

LEAST = float(np.finfo(np.float16).tiny)  # a scale that its type rounds to zero becomes this
BLOCK = 128
# What divides the E4M3 scales of NVFP4's inputs, where nothing was measured: at 1 groups whose largest value is between
# 0.1 and 2688 have a scale in full. Measured beside the scale that fits each matrix' largest input: fara-nano KL 0.0023
# and 0.0031, SmolLM2-135M 0.54 (4: 0.56, 16: 0.68).
INPUT_GLOBAL_SCALE = 1.0


class Encoding(ABC):
    """A way to store a matrix."""

    FORMAT: ClassVar[str]
    SHARES: ClassVar[bool] = False
    """Whether matrices that a server computes as one (q, k and v; gate and up) need one largest value in common."""

    @property
    @abstractmethod
    def bits(self) -> int:
        """Of a value."""

    @property
    @abstractmethod
    def args(self) -> dict[str, object]:
        """The `weights` of a config group, all but what every one of them says."""

    @abstractmethod
    def specs(self, shape: Shape, dtype: str) -> dict[str, Spec]:
        """Suffix -> dtype and shape of the tensors that a matrix stored in `dtype` becomes."""

    @abstractmethod
    def encode(self, matrix: np.ndarray, dtype: str, largest: float) -> dict[str, np.ndarray]:
        """Suffix -> values as stored, of a float32 matrix; `largest` is what `SHARES` speaks of, else not looked at."""

    @abstractmethod
    def decode(self, parts: Parts) -> np.ndarray:
        """float32 (rows, columns) of what `encode` made."""

    def unsuitable(self, shape: Shape, fused: bool) -> str:
        """Why a matrix cannot be stored so, empty when it can; `fused`: a server puts another one below it."""
        del shape, fused
        return ""


def in_groups(shape: Shape, group: int) -> str:
    """Why rows cannot be cut into groups; empty when they can."""
    return f"has {shape[1]} input columns, which is not a multiple of {group}" if shape[1] % group else ""


def stored(scales: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Scales in a safetensors dtype, F32, F16 or BF16 (as its 16 bits), and what these are in float32, none zero."""
    from quantize import floats

    kept = np.maximum(scales, np.float32(LEAST)).astype(np.float32)
    if dtype == "F32":
        return kept, kept
    encoder, storage = (floats.bf16, "<u2") if dtype == "BF16" else (floats.f16, "<f2")
    raw = encoder(kept.reshape(1, -1)).view(storage).reshape(kept.shape)
    return raw, floats.to_float32(raw)


def _floats(raw: np.ndarray) -> np.ndarray:
    from quantize import floats

    return floats.to_float32(raw)


@dataclass(frozen=True)
class Fp8(Encoding):
    """E4M3 with one scale for the matrix ("tensor"), for each row ("channel"), or for each 128 x 128 ("block")."""

    strategy: str

    FORMAT = "float-quantized"

    @property
    def bits(self) -> int:
        """Of a value."""
        return 8

    @property
    def args(self) -> dict[str, object]:
        """The `weights` of a config group."""
        words: dict[str, object] = {"type": "float", "strategy": self.strategy}
        return words | {"block_structure": [BLOCK, BLOCK]} if self.strategy == "block" else words

    def _block(self, shape: Shape) -> tuple[int, int]:
        return {"tensor": (shape[0], shape[1]), "channel": (1, shape[1]), "block": (BLOCK, BLOCK)}[self.strategy]

    def specs(self, shape: Shape, dtype: str) -> dict[str, Spec]:
        """The matrix in its own shape, and its scales."""
        rows, columns = self._block(shape)
        scales = (1,) if self.strategy == "tensor" else (-(-shape[0] // rows), -(-shape[1] // columns))
        return {"weight": ("F8_E4M3", shape), "weight_scale": (dtype, scales)}

    def encode(self, matrix: np.ndarray, dtype: str, largest: float) -> dict[str, np.ndarray]:
        """Nearest values to scales that make the largest one of a block 448."""
        from quantize import e4m3

        del largest
        block = self._block(matrix.shape)
        tops = e4m3.largest(matrix, block)
        raw, scales = stored(np.where(tops > 0, tops / np.float32(e4m3.LARGEST), np.float32(1)), dtype)
        wanted = self.specs(matrix.shape, dtype)["weight_scale"][1]
        return {"weight": e4m3.encode(matrix, scales, block), "weight_scale": raw.reshape(wanted)}

    def decode(self, parts: Parts) -> np.ndarray:
        """float32 of values times scales."""
        from quantize import e4m3

        weight, scales = parts["weight"].view(np.uint8), _floats(parts["weight_scale"])
        return e4m3.decode(weight, scales.reshape(-1, scales.shape[-1]), self._block(weight.shape))

    def unsuitable(self, shape: Shape, fused: bool) -> str:
        """Blocks: columns in whole ones, which the inputs are cut into too, and rows where more rows follow."""
        if self.strategy != "block":
            return ""
        if fused and shape[0] % BLOCK:
            return f"has {shape[0]} rows, which is not a multiple of {BLOCK}, and servers put other rows below them"
        return in_groups(shape, BLOCK)


@dataclass(frozen=True)
class Int8(Encoding):
    """Whole numbers of 8 bits, a scale for each row, not packed: for inputs in 8 bits."""

    FORMAT = "int-quantized"

    @property
    def bits(self) -> int:
        """Of a value."""
        return 8

    @property
    def args(self) -> dict[str, object]:
        """The `weights` of a config group."""
        return {"type": "int", "strategy": "channel"}

    def specs(self, shape: Shape, dtype: str) -> dict[str, Spec]:
        """The matrix in its own shape, and its scales."""
        return {"weight": ("I8", shape), "weight_scale": (dtype, (shape[0], 1))}

    def encode(self, matrix: np.ndarray, dtype: str, largest: float) -> dict[str, np.ndarray]:
        """Nearest numbers to scales that make the largest value of a row 127."""
        from quantize import integers

        del largest
        group = matrix.shape[1]
        raw, scales = stored(integers.symmetric_scales(matrix, 8, group), dtype)
        return {"weight": integers.round_to(matrix, scales, 8, group), "weight_scale": raw}

    def decode(self, parts: Parts) -> np.ndarray:
        """float32 of numbers times scales."""
        from quantize import integers

        return integers.decode(parts["weight"], _floats(parts["weight_scale"]), parts["weight"].shape[1])


@dataclass(frozen=True)
class Packed(Encoding):
    """Whole numbers in 32-bit words; `group_size` columns share a scale, -1: all of a row's."""

    width: int
    group_size: int
    symmetric: bool = True

    FORMAT = "pack-quantized"

    @property
    def bits(self) -> int:
        """Of a value."""
        return self.width

    @property
    def args(self) -> dict[str, object]:
        """The `weights` of a config group."""
        words: dict[str, object] = {"type": "int", "symmetric": self.symmetric}
        if self.group_size < 0:
            return words | {"strategy": "channel"}
        return words | {"strategy": "group", "group_size": self.group_size}

    def _group(self, columns: int) -> int:
        return columns if self.group_size < 0 else self.group_size

    def specs(self, shape: Shape, dtype: str) -> dict[str, Spec]:
        """Words, scales, the shape before packing, and zero points where there are any."""
        rows, columns = shape
        groups = columns // self._group(columns)
        zeros: dict[str, Spec] = {"weight_zero_point": ("I32", (-(-rows * self.width // 32), groups))}
        return {
            "weight_packed": ("I32", (rows, -(-columns * self.width // 32))),
            "weight_scale": (dtype, (rows, groups)),
            "weight_shape": ("I64", (2,)),
            **({} if self.symmetric else zeros),
        }

    def encode(self, matrix: np.ndarray, dtype: str, largest: float) -> dict[str, np.ndarray]:
        """Rounded to the nearest numbers of the scales with the smallest errors; symmetric only."""
        from quantize import integers

        del largest
        group = self._group(matrix.shape[1])
        raw, scales = stored(integers.symmetric_scales(matrix, self.width, group), dtype)
        return self.pack(integers.round_to(matrix, scales, self.width, group), raw)

    def pack(self, numbers: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The tensors of int8 numbers (rows, columns), scales as stored and int8 zeros (rows, groups), however found.

        ValueError where there are zeros and the encoding is symmetric, or the other way round.
        """
        from quantize import integers

        if (zeros is None) != self.symmetric:
            raise ValueError(f"zeros {'missing' if zeros is None else 'given'}, symmetric is {self.symmetric}")
        more = {} if zeros is None else {"weight_zero_point": integers.pack_zeros(zeros, self.width)}
        packed = integers.pack(numbers, self.width)
        shape = np.array(numbers.shape, np.int64)
        return {"weight_packed": packed, "weight_scale": scales, "weight_shape": shape, **more}

    def decode(self, parts: Parts) -> np.ndarray:
        """float32 of scale * (number - zero)."""
        from quantize import integers

        rows, columns = map(int, parts["weight_shape"])
        numbers = integers.unpack(parts["weight_packed"], self.width, columns)
        zeros = None if self.symmetric else integers.unpack_zeros(parts["weight_zero_point"], self.width, rows)
        return integers.decode(numbers, _floats(parts["weight_scale"]), self._group(columns), zeros)

    def unsuitable(self, shape: Shape, fused: bool) -> str:
        """Groups have to be whole."""
        del fused
        return in_groups(shape, self._group(shape[1]))


@dataclass(frozen=True)
class Nvfp4(Encoding):
    """E2M1 in groups of 16 under E4M3 scales; with `inputs` those are rounded alike, under a scale stored beside."""

    inputs: bool

    FORMAT = "nvfp4-pack-quantized"
    SHARES = True

    @property
    def bits(self) -> int:
        """Of a value."""
        return 4

    @property
    def args(self) -> dict[str, object]:
        """The `weights` of a config group."""
        return {
            "type": "float",
            "strategy": "tensor_group",
            "group_size": 16,
            "scale_dtype": "torch.float8_e4m3fn",
        }

    def specs(self, shape: Shape, dtype: str) -> dict[str, Spec]:
        """Packed values, scales of groups, the scale of the matrix, that of the inputs."""
        del dtype
        rows, columns = shape
        return {
            "weight_packed": ("U8", (rows, columns // 2)),
            "weight_scale": ("F8_E4M3", (rows, columns // 16)),
            "weight_global_scale": ("F32", (1,)),
            **({"input_global_scale": ("F32", (1,))} if self.inputs else {}),
        }

    def encode(self, matrix: np.ndarray, dtype: str, largest: float) -> dict[str, np.ndarray]:
        """Nearest values to the scales with the smallest errors."""
        from quantize import e2m1

        del dtype
        overall = e2m1.global_scale(largest)
        packed, scales = e2m1.nvfp4(matrix, overall)
        inputs = {"input_global_scale": np.array([INPUT_GLOBAL_SCALE], np.float32)} if self.inputs else {}
        return {
            "weight_packed": packed,
            "weight_scale": scales,
            "weight_global_scale": np.array([overall], np.float32),
            **inputs,
        }

    def decode(self, parts: Parts) -> np.ndarray:
        """float32 of values times scales."""
        from quantize import e2m1

        overall = np.float32(parts["weight_global_scale"].reshape(-1)[0])
        return e2m1.decode_nvfp4(parts["weight_packed"], parts["weight_scale"].view(np.uint8), overall)

    def unsuitable(self, shape: Shape, fused: bool) -> str:
        """Groups have to be whole."""
        del fused
        return in_groups(shape, 16)


@dataclass(frozen=True)
class Mxfp4(Encoding):
    """E2M1 in groups of 32 under powers of two."""

    FORMAT = "mxfp4-pack-quantized"

    @property
    def bits(self) -> int:
        """Of a value."""
        return 4

    @property
    def args(self) -> dict[str, object]:
        """The `weights` of a config group."""
        return {"type": "float", "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}

    def specs(self, shape: Shape, dtype: str) -> dict[str, Spec]:
        """Packed values and scales of groups."""
        del dtype
        rows, columns = shape
        return {"weight_packed": ("U8", (rows, columns // 2)), "weight_scale": ("U8", (rows, columns // 32))}

    def encode(self, matrix: np.ndarray, dtype: str, largest: float) -> dict[str, np.ndarray]:
        """Nearest values to the scales with the smallest errors."""
        from quantize import e2m1

        del dtype, largest
        packed, scales = e2m1.mxfp4(matrix)
        return {"weight_packed": packed, "weight_scale": scales}

    def decode(self, parts: Parts) -> np.ndarray:
        """float32 of values times scales."""
        from quantize import e2m1

        return e2m1.decode_mxfp4(parts["weight_packed"], parts["weight_scale"])

    def unsuitable(self, shape: Shape, fused: bool) -> str:
        """Groups have to be whole."""
        del fused
        return in_groups(shape, 32)
