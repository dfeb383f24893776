"""Weights in fewer bits, laid out as NNCF lays them out, so that plugins compute with them as they are.

    int4, in groups of g inputs             int8, one scale an output; fp16
    Constant i4 (outputs, groups, g)        Constant i8 (outputs, inputs)
    Convert f16                             Convert f16
    Multiply by f16 (outputs, groups, 1)    Multiply by f16 (outputs, 1)
    Reshape (outputs, inputs)               Convert f32
    Convert f32

With zero points a Subtract stands before the Multiply and both constants are u4. The integers are those of the 4-bit
ONNX graphs, by an `encode` of convert.formats.onnx.blocks (searched, weighed by importance, or GPTQ's), where groups
are what its blocks can be; else scales of the least error (quantize/integers.py). A table of embeddings and the layer
that gives the logits have 8 bits, as NNCF leaves them; v_proj has, and a layer whose inputs no whole number of groups
has.

Source: NNCF, weight compression.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convert.formats.openvino.scheme import BLOCKS, Matrix, Scheme
from quantize import integers
from quantize.nbits_layout import Layout

if TYPE_CHECKING:
    import openvino as ov
    from openvino import Node, Output

ALIGNMENT = 64


@dataclass
class Store:
    """A file that arrays are kept in until the model is written: they take no memory that is not a file's.

    It has to outlive the model: OpenVINO's tensors of 4-bit numbers do not hold the array that they look at.
    """

    path: Path
    _size: int = field(default=0, init=False)
    _held: list[np.ndarray] = field(default_factory=list, init=False)

    def keep(self, array: np.ndarray) -> np.ndarray:
        """The array, mapped."""
        start = self._size + -self._size % ALIGNMENT
        with open(self.path, "r+b" if self.path.exists() else "wb") as file:
            file.seek(start)
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        self._size = start + array.nbytes
        self._held.append(np.memmap(self.path, array.dtype, "c", start, array.shape))
        return self._held[-1]


def compress(
    found: Mapping[str, Node], matrices: Mapping[str, tuple[Matrix, bool]], scheme: Scheme, store: Store
) -> dict[str, int]:
    """Put matrices in the place of the constants of the same names; how many have so many bits, for a note.

    `matrices` are by name, with whether each is a fine one.
    """
    counts: dict[str, int] = {}
    for name, node in found.items():
        matrix, fine = matrices[name]
        bits = scheme.bits(matrix, fine)
        make = {16: _half, 8: _eight, 4: _four}[bits]
        decoded = make(matrix, scheme, store)
        if decoded is not None:
            _replace(node, decoded)
            counts[f"{bits} bits"] = counts.get(f"{bits} bits", 0) + 1
    return counts


def _replace(node: Node, decoded: Output) -> None:
    """What read the constant, or its float32, reads `decoded`."""
    port = node.output(0)
    users = list(port.get_target_inputs())
    widened = [user.get_node() for user in users if user.get_node().get_type_name() == "Convert"]
    for user in [u for w in widened for u in w.output(0).get_target_inputs()]:
        _read(user, decoded)
    for user in users:
        if user.get_node() not in widened:
            _read(user, decoded)


def _read(user: ov.Input, decoded: Output) -> None:
    """The constant is (outputs, inputs), as a checkpoint has it: a Transpose behind it goes into the MatMul."""
    node = user.get_node()
    readers = list(node.output(0).get_target_inputs())
    turns = node.get_type_name() == "Transpose" and all(_is_right(reader) for reader in readers)
    if not turns:
        user.replace_source_output(decoded)
        return
    import openvino.opset13 as op

    for reader in readers:
        product = reader.get_node()
        made = op.matmul(product.input_value(0), decoded, False, True)
        made.set_friendly_name(product.get_friendly_name())
        names = product.output(0).get_names()
        for taker in product.output(0).get_target_inputs():
            taker.replace_source_output(made.output(0))
        made.output(0).get_tensor().set_names(names)


def _is_right(reader: ov.Input) -> bool:
    """Whether a plain MatMul reads it as its second matrix."""
    node = reader.get_node()
    plain = node.get_type_name() == "MatMul" and reader.get_index() == 1
    return plain and not any(node.get_attributes()[word] for word in ("transpose_a", "transpose_b"))


# ---- the layouts


def _half(matrix: Matrix, scheme: Scheme, store: Store) -> Output | None:
    """float16; None where it cannot hold a value."""
    del scheme
    import openvino.opset13 as op

    values = np.empty((matrix.outputs, matrix.inputs), np.float16)
    with np.errstate(over="ignore"):
        for part, columns in matrix.chunks():
            values[part] = columns.T
    if not np.isfinite(values).all():
        return None
    return _wide(op.constant(store.keep(values), shared_memory=True).output(0), matrix)


def _eight(matrix: Matrix, scheme: Scheme, store: Store) -> Output:
    import openvino as ov
    import openvino.opset13 as op

    del scheme
    values = np.empty((matrix.outputs, matrix.inputs), np.int8)
    scales = np.empty((matrix.outputs, 1), np.float16)
    for part, rows in _rows(matrix):
        exact = _scales(rows, 8, rows.shape[1])
        scales[part], values[part] = exact, integers.round_to(rows, exact, 8, rows.shape[1])
    small = op.convert(op.constant(store.keep(values), shared_memory=True), ov.Type.f16)
    return _wide(op.multiply(small, op.constant(store.keep(scales), shared_memory=True)).output(0), matrix)


def _four(matrix: Matrix, scheme: Scheme, store: Store) -> Output:
    import openvino as ov
    import openvino.opset13 as op

    from convert.formats.onnx.linears import Linear

    group = scheme.group_of(matrix)
    groups = matrix.inputs // group
    numbers = np.empty((matrix.outputs, matrix.inputs // 2), np.uint8)
    scales = np.empty((matrix.outputs, groups, 1), np.float16)
    zeros = np.empty((matrix.outputs, groups), np.uint8)
    if scheme.encode is not None and group in BLOCKS and isinstance(matrix, Linear):
        numbers[:], scales[:, :, 0], zeros[:] = _of_blocks(scheme.encode(matrix, Layout(4, group, scheme.symmetric)))
    else:
        for part, rows in _rows(matrix):
            found = _symmetric(rows, group) if scheme.symmetric else _asymmetric(rows, group)
            numbers[part], scales[part, :, 0] = _pairs(found[0]), found[1]
            zeros[part] = found[2] if len(found) > 2 else 0
    kind = ov.Type.i4 if scheme.symmetric else ov.Type.u4
    value = op.convert(_nibbles(store.keep(numbers), (matrix.outputs, groups, group), kind), ov.Type.f16)
    if not scheme.symmetric:
        zero = _nibbles(store.keep(_pairs(_even(zeros.reshape(1, -1)))), (matrix.outputs, groups, 1), kind)
        value = op.subtract(value, op.convert(zero, ov.Type.f16))
    value = op.multiply(value, op.constant(store.keep(scales), shared_memory=True))
    shape = np.array([matrix.outputs, matrix.inputs])
    return _wide(op.reshape(value, op.constant(shape), special_zero=False).output(0), matrix)


def _wide(value: Output, matrix: Matrix) -> Output:
    import openvino as ov
    import openvino.opset13 as op

    node = op.convert(value, ov.Type.f32)
    node.set_friendly_name(f"{matrix.name}.decoded")
    return node.output(0)


def _nibbles(packed: np.ndarray, shape: tuple[int, ...], kind: ov.Type) -> Node:
    """A constant of 4-bit numbers, two a byte, the first in the low half."""
    import openvino as ov
    import openvino.opset13 as op

    return op.constant(ov.Tensor(packed, ov.Shape(list(shape)), kind), shared_memory=True)


# ---- the numbers


def _rows(matrix: Matrix) -> Iterator[tuple[slice, np.ndarray]]:
    """Outputs, and their float32 rows."""
    for part, columns in matrix.chunks():
        yield part, np.ascontiguousarray(columns.T)


def _scales(rows: np.ndarray, bits: int, group: int) -> np.ndarray:
    """The best scales as float16 holds them, as float32: integers are found for these."""
    scales = integers.symmetric_scales(rows, bits, group)
    held = np.maximum(scales, np.finfo(np.float16).smallest_subnormal).astype(np.float16)
    return np.asarray(held, np.float32)


def _of_blocks(made: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray | int]:
    """ONNX Runtime's blocks, whose numbers are 0..15 around 8, or around zeros of their own, as i4 or u4 has them."""
    values, scales, *zeros = made
    rows = values.reshape(len(values), -1)
    if not zeros:
        return rows ^ 0x88, scales.reshape(len(rows), -1), 0  # 8 less, in two's complement
    each = np.stack([zeros[0] & 15, zeros[0] >> 4], -1).reshape(len(rows), -1)
    scales = scales.reshape(len(rows), -1)
    return rows, scales, each[:, : scales.shape[1]]


def _symmetric(rows: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
    scales = _scales(rows, 4, group)
    return integers.round_to(rows, scales, 4, group), scales


def _asymmetric(rows: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """From the least value of a group, or 0, to the largest, or 0; numbers and zeros 0..15."""
    grouped = rows.reshape(len(rows), -1, group)
    low, high = np.minimum(grouped.min(-1), 0), np.maximum(grouped.max(-1), 0)
    scales = ((high - low) / np.float32(15)).astype(np.float16).astype(np.float32)
    scales = np.where(scales == 0, np.float32(1), scales)
    zeros = np.clip(np.rint(-low / scales), 0, 15).astype(np.uint8)
    numbers = np.rint(grouped / scales[:, :, None]) + zeros[:, :, None]
    return np.clip(numbers, 0, 15).astype(np.uint8).reshape(rows.shape), scales, zeros


def _pairs(numbers: np.ndarray) -> np.ndarray:
    """Bytes of two 4-bit numbers each."""
    low, high = numbers[:, ::2].view(np.uint8) & 15, numbers[:, 1::2].view(np.uint8) & 15
    packed: np.ndarray = low | high << 4
    return packed


def _even(numbers: np.ndarray) -> np.ndarray:
    return np.asarray(np.pad(numbers, ((0, 0), (0, numbers.shape[1] % 2))))
