"""Matrices in OpenVINO's own layouts: what its kernels read of them is what our integers say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.formats.openvino.scheme import WHOLE_ROWS, Scheme
from convert.formats.openvino.weights import Store, compress

ov = pytest.importorskip("openvino")


@dataclass(frozen=True)
class Matrix:
    values: np.ndarray  # (outputs, inputs)
    name: str = "m.weight"

    @property
    def outputs(self) -> int:
        return len(self.values)

    @property
    def inputs(self) -> int:
        return int(self.values.shape[1])

    def chunks(self) -> Iterator[tuple[slice, np.ndarray]]:
        for start in (0, 7):
            part = slice(start, 7 if start == 0 else self.outputs)
            yield part, np.ascontiguousarray(self.values[part].T)


def matrix(outputs: int = 24, inputs: int = 64, seed: int = 0) -> Matrix:
    return Matrix(np.random.default_rng(seed).standard_normal((outputs, inputs)).astype(np.float32))


def stored(found: Matrix, scheme: Scheme, folder: Path, fine: bool = False) -> tuple[np.ndarray, set[str], Path]:
    """What a compiled model reads of the matrix, the types of its constants, and its file; through a Transpose."""
    import openvino.opset13 as op

    constant = op.constant(found.values)
    constant.set_friendly_name(found.name)
    x = op.parameter([-1, found.inputs], ov.Type.f32)
    product = op.matmul(x, op.transpose(constant, op.constant(np.array([1, 0]))), False, False)
    product.output(0).get_tensor().set_names({"y"})
    model = ov.Model([product], [x])
    store = Store(folder / "data")
    compress({found.name: constant}, {found.name: (found, fine)}, scheme, store)
    ov.save_model(model, folder / "m.xml", compress_to_fp16=False)
    read = ov.Core().read_model(folder / "m.xml")
    types = {o.get_output_element_type(0).to_string() for o in read.get_ops() if o.get_type_name() == "Constant"}
    compiled = ov.Core().compile_model(
        read, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}
    )
    return compiled(np.eye(found.inputs, dtype=np.float32))["y"].T, types, folder / "m.bin"


@pytest.mark.parametrize(
    ("scheme", "types", "bound"),
    [
        (Scheme("fp16"), {"f16"}, 2e-3),
        (Scheme("int8"), {"i8", "f16"}, 0.02),
        (Scheme("int4", 32), {"i4", "f16", "i64"}, 0.32),
        (Scheme("int4", 32, False), {"u4", "f16", "i64"}, 0.22),
        (Scheme("int4", WHOLE_ROWS), {"i4", "f16", "i64"}, 0.4),
    ],
    ids=lambda value: f"{value.precision}-{value.group_size}-{value.symmetric}" if isinstance(value, Scheme) else None,
)
def test_a_runtime_reads_what_was_rounded(scheme: Scheme, types: set[str], bound: float, tmp_path: Path) -> None:
    found = matrix()
    got, kinds, file = stored(found, scheme, tmp_path)
    assert kinds == types
    assert 0 < np.abs(got - found.values).max() < bound
    assert abs(file.stat().st_size - scheme.size(found, False)) < 64


def test_a_layer_whose_inputs_fill_no_groups_keeps_eight_bits(tmp_path: Path) -> None:
    got, kinds, _ = stored(matrix(inputs=48), Scheme("int4", 32), tmp_path)
    assert "i8" in kinds
    assert np.abs(got - matrix(inputs=48).values).max() < 0.02


def test_a_fine_layer_keeps_eight_bits(tmp_path: Path) -> None:
    _, kinds, _ = stored(matrix(), Scheme("int4", 32), tmp_path, fine=True)
    assert "i8" in kinds
    assert "i4" not in kinds


def test_what_float16_cannot_hold_stays_as_it_is(tmp_path: Path) -> None:
    large = Matrix(matrix().values * 60000)
    got, kinds, _ = stored(large, Scheme("fp16"), tmp_path)
    assert kinds == {"f32", "i64"}
    np.testing.assert_array_equal(got, large.values)


@pytest.mark.parametrize("symmetric", [True, False])
def test_numbers_of_onnx_runtimes_blocks_are_the_same_numbers_here(symmetric: bool) -> None:
    """Three groups a row: zero points of two rows share no byte there, and do here."""
    from convert.formats.openvino.weights import _of_blocks
    from quantize import nbits
    from quantize.nbits_layout import Layout

    values = matrix(inputs=96).values
    made = nbits.plain(values, Layout(4, 32, symmetric))
    parts = (made.values, made.scales) if made.zeros is None else (made.values, made.scales, made.zeros)
    numbers, scales, zeros = _of_blocks(parts)
    each = np.stack([numbers & 15, numbers >> 4], -1).reshape(len(numbers), 3, 32).astype(np.int32)
    if symmetric:
        each = np.where(each > 7, each - 16, each)  # i4
    decoded = (each - np.asarray(zeros, np.int32).reshape(-1, 3 if not symmetric else 1, 1)) * scales[:, :, None]
    assert np.abs(decoded.reshape(values.shape) - values).max() < 0.4


def test_values_of_one_group_alone_and_zeros_are_exact(tmp_path: Path) -> None:
    values: Any = np.zeros((24, 64), np.float32)
    values[3, :32] = np.arange(32) % 16 * 0.25
    got, _, _ = stored(Matrix(values), Scheme("int4", 32, False), tmp_path)
    np.testing.assert_allclose(got, values, atol=2e-3)
