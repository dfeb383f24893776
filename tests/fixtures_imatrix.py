"""What llama.cpp itself multiplies its matrices with, overheard through its evaluation callback."""

from __future__ import annotations

import ctypes as C
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from validate.runtimes import _llama_api as api
from validate.runtimes import llama_cpp

F32, I32 = 0, 26  # ggml.h, enum ggml_type


class SquareSums:
    """Sums of squares of columns, float64 (experts, columns), and how many rows went into each."""

    def __init__(self, columns: int, experts: int = 1) -> None:
        self.sums, self.counts = np.zeros((experts, columns)), np.zeros(experts, np.int64)

    def add(self, inputs: np.ndarray, expert: int = 0) -> None:
        self.sums[expert] += np.square(inputs.astype(np.float64)).sum(0)
        self.counts[expert] += len(inputs)

    def values(self) -> np.ndarray:
        return self.sums.astype(np.float32)


class Tensor(C.Structure):
    """ggml_tensor (ggml.h)."""


Tensor._fields_ = (
    ("type", C.c_int),
    ("buffer", C.c_void_p),
    ("ne", C.c_int64 * 4),
    ("nb", C.c_size_t * 4),
    ("op", C.c_int),
    ("op_params", C.c_int32 * 16),
    ("flags", C.c_int32),
    ("src", C.POINTER(Tensor) * 10),
    ("view_src", C.c_void_p),
    ("view_offs", C.c_size_t),
    ("data", C.c_void_p),
    ("name", C.c_char * 64),
)
Callback = C.CFUNCTYPE(C.c_bool, C.POINTER(Tensor), C.c_bool, C.c_void_p)


def overheard(monkeypatch: pytest.MonkeyPatch, gguf: Path, windows: Sequence[Sequence[int]]) -> dict[str, SquareSums]:
    """GGUF name -> sums over the inputs of each matrix of the layers, as llama-imatrix takes them from the graph."""
    library = C.CDLL(str(api.library_path()))
    library.ggml_op_desc.restype, library.ggml_op_desc.argtypes = C.c_char_p, [C.POINTER(Tensor)]
    heard: dict[str, SquareSums] = {}

    def listen(pointer: Any, ask: bool, _: Any) -> bool:
        tensor = pointer.contents
        operation = library.ggml_op_desc(pointer)
        if operation not in (b"MUL_MAT", b"MUL_MAT_ID") or not tensor.src[0].contents.name.startswith(b"blk."):
            return not ask
        if not ask:
            _hear(heard, tensor, several=operation == b"MUL_MAT_ID")
        return True

    callback, params = Callback(listen), api.context_params

    def with_callback() -> Any:
        made = params()
        made.cb_eval = C.cast(callback, C.c_void_p).value
        return made

    with monkeypatch.context() as patch:
        patch.setattr(api, "context_params", with_callback)
        with llama_cpp.RUNTIME.open(gguf, threads=1) as session:
            for tokens in windows:
                session.logits(tokens)
    return heard


def _hear(heard: dict[str, SquareSums], tensor: Any, several: bool) -> None:
    matrix, inputs = tensor.src[0].contents, _array(tensor.src[1].contents, F32, np.float32)
    name, columns = matrix.name.decode(), inputs.shape[-1]
    sums = heard.setdefault(name, SquareSums(columns, matrix.ne[2]))
    if not several:
        sums.add(inputs.reshape(-1, columns))
        return
    chosen = _array(tensor.src[2].contents, I32, np.int32)[0, 0]  # (token, place)
    for token, experts in enumerate(chosen):
        for place, expert in enumerate(experts):
            sums.add(inputs[0, token, place % inputs.shape[2]][None], int(expert))


def _array(tensor: Any, kind: int, dtype: Any) -> np.ndarray:
    """The tensor's values in numpy's order, by its strides."""
    assert tensor.type == kind
    shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
    size = sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 4
    raw = (C.c_uint8 * size).from_address(tensor.data)
    return np.lib.stride_tricks.as_strided(np.frombuffer(raw, dtype, 1), shape, strides).copy()
