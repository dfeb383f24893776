"""Rows to encode, ordinary and extreme, and ggml's own encoder to compare with."""

from __future__ import annotations

import ctypes as C
from functools import cache
from pathlib import Path

import numpy as np

from quantize.blocks import TYPES

COLUMNS = 768  # three super-blocks
ROWS = 45  # 135 super-blocks: groups of LANES cross rows, and some are left over


@cache
def ggml() -> C.CDLL:
    import xllamacpp

    library = C.CDLL(str(next(Path(xllamacpp.__path__[0]).glob("xllamacpp*.so"))))
    library.ggml_quantize_chunk.restype = C.c_size_t
    library.ggml_quantize_chunk.argtypes = [C.c_int, C.c_void_p, C.c_void_p, *[C.c_int64] * 3, C.c_void_p]
    return library


def oracle(values: np.ndarray, name: str, weights: np.ndarray | None = None) -> np.ndarray:
    """uint8 (rows, row bytes): what ggml_quantize_chunk makes of float32 `values` (rows, n) and `weights` (n,)."""
    kind = TYPES[name]
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    assert weights is None or (weights.dtype == np.float32 and weights.shape == values.shape[1:])
    out = np.zeros((len(values), kind.row_bytes(values.shape[1])), np.uint8)
    importance = None if weights is None else weights.ctypes.data
    written = ggml().ggml_quantize_chunk(kind.id, values.ctypes.data, out.ctypes.data, 0, *values.shape, importance)
    assert written == out.nbytes
    return out


CASES = (
    *(
        "normal",
        "heavy tails",
        "constant",
        "negative constant",
        "zero",
        "negative zero",
        "positive",
        "negative",
        "mixed",
    ),
    *(
        "huge",
        "tiny",
        "denormal",
        "least denormals",
        "one outlier",
        "outliers",
        "float16 limits",
        "whole",
        "few values",
    ),
    *("near epsilon", "scales apart", "almost constant", "negative magnitudes", "any bits"),
)
IMPORTANCE = ("random", "some zero", "constant", "all zero", "heavy tails", "huge", "tiny", "sparse")


def rows(case: str, shape: tuple[int, int] = (ROWS, COLUMNS), seed: int = 1) -> np.ndarray:
    """float32 rows of one of CASES, all finite."""
    draw = np.random.default_rng(seed)
    normal = draw.normal(size=shape)
    blocks = np.arange(shape[0] * shape[1]).reshape(shape)  # to vary something from sub-block to sub-block
    made = {
        "normal": lambda: normal * 0.02,
        "heavy tails": lambda: draw.standard_t(1.5, size=shape) * 0.01,
        "constant": lambda: np.full(shape, 0.37),
        "negative constant": lambda: np.full(shape, -0.37),
        "zero": lambda: np.zeros(shape),
        "negative zero": lambda: -np.zeros(shape),
        "positive": lambda: np.abs(normal) + 0.5,
        "negative": lambda: -np.abs(normal) - 0.5,
        "mixed": lambda: np.where(blocks // 16 % 3 == 0, 0, np.where(blocks // 16 % 3 == 1, -0.5, normal)),
        "huge": lambda: normal * 10.0 ** draw.integers(4, 38, size=shape),
        "tiny": lambda: normal * 10.0 ** draw.integers(-38, -4, size=(shape[0], 1)),
        "denormal": lambda: normal * 1e-42,
        "least denormals": lambda: draw.integers(-3, 4, size=shape) * 1.4e-45,
        "one outlier": lambda: np.where(draw.random(shape) < 1 / 256, 5, 1e-3),
        "outliers": lambda: normal * np.where(draw.random(shape) < 0.02, 1e4, 1),
        "float16 limits": lambda: draw.choice([-65504.0, 65504, 65520, 6.1e-5, 6e-8, 1], size=shape),
        "whole": lambda: draw.integers(-40, 41, size=shape) / 2,  # ties everywhere
        "few values": lambda: draw.choice([-1.0, 0, 1], size=shape, p=[0.02, 0.96, 0.02]),
        "near epsilon": lambda: normal * 10.0 ** draw.uniform(-17, -13, size=(shape[0], 1)),
        "scales apart": lambda: normal * 10.0 ** (blocks // 16 * 7 % 13 - 9.0),
        "almost constant": lambda: -1 + normal * 1e-7,
        # a fit to few of these leaves the others far out of the range of levels, beyond what ggml can round
        "negative magnitudes": lambda: -np.exp(4 * normal),
        "any bits": lambda: draw.integers(0, 2**32, size=shape, dtype=np.uint32).view(np.float32),
    }
    with np.errstate(all="ignore"):
        values = np.ascontiguousarray(made[case](), np.float32)
    return np.where(np.isfinite(values), values, np.float32(1))


def importance(case: str, columns: int = COLUMNS, seed: int = 2) -> np.ndarray:
    """float32 importance of each column, one of IMPORTANCE, none negative."""
    draw = np.random.default_rng(seed)
    random = draw.random(columns)
    made = {
        "random": random,
        "some zero": np.where(random < 0.6, 0, random),
        "constant": np.full(columns, 0.25),
        "all zero": np.zeros(columns),
        "heavy tails": np.abs(draw.standard_t(1, size=columns)),
        "huge": random * 1e30,
        "tiny": random * 1e-38,
        "sparse": np.where(random < 0.85, 0, 10 ** draw.uniform(-9, 9, columns)),
    }
    return made[case].astype(np.float32)
