"""GPTQ and AWQ folders decoded to floats, for models whose loader has no numbers in fewer bits for them.

transformers keeps the experts of a layer in one tensor, and the kernels' library knows the families that it lists.
Such a model's matrices are decoded here, by the layouts alone (AutoGPTQ's qlinear_cuda.py, AutoAWQ's gemm.py), and the
model is loaded as if it had never been quantized.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_PARTS = ("qweight", "qzeros", "scales", "g_idx")
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # where in an int32 the rows 0, 1, 2 … of eight lie


def decoded(folder: Path, words: Mapping[str, object]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Every tensor that is not whole in the folder as float32 (rows, columns), and the modules that they are of.

    `words` is config.json's quantization_config.
    """
    parts: defaultdict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for name, tensor in _tensors(folder):
        module, _, suffix = name.rpartition(".")
        if suffix in _PARTS:
            parts[module][suffix] = tensor
    decode = _awq if words.get("quant_method") == "awq" else _gptq
    bits = words.get("bits", 4)
    version = 0 if words.get("checkpoint_format") == "gptq_v2" else 1
    assert isinstance(bits, int)
    return {f"{module}.weight": decode(found, bits, version) for module, found in parts.items()}, list(parts)


def plain_names(folder: Path) -> list[str]:
    """The tensors that are stored as they are."""
    from safetensors import safe_open

    found: list[str] = []
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="np") as opened:
            found += [name for name in opened.keys() if name.rpartition(".")[2] not in _PARTS]  # noqa: SIM118
    return found


def _tensors(folder: Path) -> list[tuple[str, np.ndarray]]:
    from safetensors import safe_open

    found: list[tuple[str, np.ndarray]] = []
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="np") as opened:
            names = [name for name in opened.keys() if name.rpartition(".")[2] in _PARTS]  # noqa: SIM118 - no mapping
            found += [(name, opened.get_tensor(name)) for name in names]
    return found


def _gptq(parts: Mapping[str, np.ndarray], bits: int, less: int) -> np.ndarray:
    """scale * (q - zero); columns of int32 hold the columns of the matrix, the lowest bits the first."""
    levels = _fields(np.ascontiguousarray(parts["qweight"].T), bits)  # (rows, columns)
    zeros = _fields(parts["qzeros"], bits) + np.int16(less)  # (groups, rows)
    group = parts["g_idx"].astype(np.int64)
    scales = parts["scales"].astype(np.float32)
    return np.asarray((levels - zeros[group].T).astype(np.float32) * scales[group].T)


def _awq(parts: Mapping[str, np.ndarray], bits: int, less: int) -> np.ndarray:
    del bits, less
    levels, zeros = _eights(parts["qweight"]), _eights(parts["qzeros"])  # (columns, rows), (groups, rows)
    each = len(levels) // len(zeros)
    scales = np.repeat(parts["scales"].astype(np.float32), each, 0)
    return np.ascontiguousarray(((levels - np.repeat(zeros, each, 0)).astype(np.float32) * scales).T)


def _fields(words: np.ndarray, bits: int) -> np.ndarray:
    """int16 (n, m * 32 / bits) of int32 (n, m), each row a stream of bits."""
    loose = np.unpackbits(np.ascontiguousarray(words, "<i4").view(np.uint8), axis=1, bitorder="little")
    packed = np.packbits(loose.reshape(len(words), -1, bits), axis=2, bitorder="little")
    return packed[:, :, 0].astype(np.int16)


def _eights(words: np.ndarray) -> np.ndarray:
    shifts = 4 * np.array(_AWQ_ORDER, np.uint32)
    fields = (np.ascontiguousarray(words).view(np.uint32)[:, :, None] >> shifts) & 15
    return fields.reshape(len(words), -1).astype(np.int16)
