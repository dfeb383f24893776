"""8-bit graphs: weights int8, activations quantized while the model runs, in standard operators only.

    x f32 ── each token: its middle taken off, divided by half its range ── DynamicQuantizeLinear ── uint8, scale, zero
             MatMulInteger(uint8, weight int8, zero) ── Cast ── * (scale * weight scales)
                 ── * half the range + middle * sums of the weight's columns ── f32

Weights are symmetric with one scale for each output, from -127 to 127: `weight = scale * int8`, zero is zero and no
zero point is stored. These are the numbers of onnxruntime.quantization.quantize_dynamic(per_channel=True,
weight_type=QInt8, reduce_range=False), here without a float32 model on disk or in memory.

Tables of embeddings have one scale for each row; a head that is tied to one reads the same bytes, transposed.

Where quantize_dynamic falls short: an activation has one scale for all its tokens, and some tokens (the first above
all) are thousands of times larger than the others, which are rounded to nothing. So each token is brought to -1..1
first; what all layers that read it share is done once. Mean KL of SmolLM2-135M against float32 (1,024 positions of
text): 0.090 with only down projections divided by the largest value of each token, 0.046 with all layers so, 0.037 with
the middle taken off as well, for ranges are lopsided. Rounded weights alone are 0.004, and the head left as it is 0.004
less, for a fifth more bytes.

Seven bits (`reduce_range`) are not used: x86 processors before AVX-512 VNNI and AVX-VNNI add two products of uint8 and
int8 in 16 bits and saturate there. On those ONNX Runtime computes exactly with the session option
session.x64quantprecision = "1" (github.com/microsoft/onnxruntime/pull/12088). Everything since Ice Lake and Zen 4, and
ARM, is exact as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from convert.formats.onnx.half import widen_small
from convert.formats.onnx.linears import (
    Linear,
    Memo,
    Patterns,
    before,
    chosen,
    chosen_lookups,
    initializer,
    lazy,
    linears,
    lookups,
    replace,
    split_gemms,
    widened_rows,
)

KEEP: Patterns = ()
LIMIT = 127  # -128 would make the range lopsided
TINY = 1e-30  # a token whose values are all one is divided by it


def to_int8(model: ir.Model, keep: Patterns | None = None) -> None:
    """The bound model with int8 weights, in place; weights are quantized when they are written.

    `keep`: parameter names whose layers stay as they are; None is KEEP.
    """
    split_gemms(model)
    words = KEEP if keep is None else keep
    layers = chosen(model, words)
    tables = chosen_lookups(model, words, layers)
    widen_small(model, None, [found.weight for found in (*linears(model), *lookups(model))])
    inputs = _Inputs(model)
    memo = Memo()
    rows = {table.weight for table in tables}
    read = {layer.weight for layer in layers}
    weights: dict[ir.Value, _Stored] = {}
    for linear in (*layers, *tables):
        if linear.weight not in weights:
            weights[linear.weight] = _weight(model, linear, linear.weight in rows, linear.weight in read, memo)
    for linear in layers:
        found = weights[linear.weight]
        if linear.weight in rows:
            found = replace_(found, values=before(linear.node, "Transpose", [found.values], perm=[1, 0]))
        _quantize(linear, found, inputs)
    for table in tables:
        _look_up(table, weights[table.weight].values, weights[table.weight].scales)
    RemoveUnusedNodesPass()(model)


def quantize(linear: Linear) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int8 (inputs, outputs), what its columns have to be multiplied by, and their sums then, float32 (outputs,)."""
    whole = np.empty((linear.inputs, linear.outputs), np.int8)
    scales, sums = np.empty(linear.outputs, np.float32), np.empty(linear.outputs, np.float32)
    for part, columns in linear.chunks():
        # float64 as the peer divides, float32 as it stores; a column of zeros has the scale 1
        scale = (np.abs(columns).max(axis=0).astype(np.float64) / LIMIT).astype(np.float32)
        scales[part] = np.where(scale < np.finfo(np.float32).tiny, np.float32(1), scale)
        whole[:, part] = np.clip(np.rint(columns / scales[part]), -LIMIT, LIMIT)
        sums[part] = whole[:, part].sum(0, np.int64).astype(np.float32) * scales[part]
    return whole, scales, sums


@dataclass(frozen=True)
class _Stored:
    """The initializers that stand for a weight; `sums` where a layer reads it."""

    values: ir.Value
    scales: ir.Value
    sums: ir.Value | None = None


def _weight(model: ir.Model, linear: Linear, rows: bool, is_read: bool, memo: Memo) -> _Stored:
    """In a table of `rows` outputs come first."""
    shape = (linear.outputs, linear.inputs) if rows else (linear.inputs, linear.outputs)

    def load() -> np.ndarray:
        whole = memo(linear, quantize)[0]
        return np.ascontiguousarray(whole.T) if rows else whole

    def beside(position: int, ending: str) -> ir.Value:
        name = f"{linear.name}_{ending}"
        values = lazy(name, ir.DataType.FLOAT, (linear.outputs,), lambda: memo(linear, quantize)[position])
        return initializer(model, values)

    values = initializer(model, lazy(f"{linear.name}_int8", ir.DataType.INT8, shape, load))
    return _Stored(values, beside(1, "scales"), beside(2, "sums") if is_read else None)


def _look_up(table: Linear, values: ir.Value, scales: ir.Value) -> None:
    """Take rows of int8, and multiply each by its scale."""
    for node in widened_rows(table):
        tokens = table.node.inputs[1]
        rows = before(node, "Cast", [before(node, "Gather", [values, tokens])], to=ir.DataType.FLOAT)
        last = before(node, "Constant", [], value_ints=[-1])
        size = before(node, "Unsqueeze", [before(node, "Gather", [scales, tokens]), last])
        replace(node, before(node, "Mul", [rows, size]))


def _quantize(linear: Linear, weight: _Stored, inputs: _Inputs) -> None:
    """Put the integer multiplication in the layer's place."""
    node, x = linear.node, linear.node.inputs[0]
    assert x is not None
    read = inputs.of(x, node)
    product = before(node, "MatMulInteger", [read.small, weight.values, read.zero])
    product = before(node, "Cast", [product], to=ir.DataType.FLOAT)
    both = before(node, "Mul", [read.scale, weight.scales])
    product = before(node, "Mul", [before(node, "Mul", [product, both]), read.half])
    replace(node, before(node, "Add", [product, before(node, "Mul", [read.middle, weight.sums])]))


@dataclass(frozen=True)
class _Read:
    """An activation in uint8: x = (small - zero) * scale * half + middle, the last two of each token."""

    small: ir.Value
    scale: ir.Value
    zero: ir.Value
    half: ir.Value
    middle: ir.Value


def _split_so(split: ir.Node, value: ir.Value) -> Sequence[ir.Value]:
    """A value split as another is."""
    inputs = [value, *split.inputs[1:]]
    made = ir.node("Split", inputs, {"axis": 0}, num_outputs=len(split.outputs))
    made.metadata_props.update(split.metadata_props)
    assert split.graph is not None
    split.graph.insert_before(split, made)
    parts: Sequence[ir.Value] = made.outputs
    return parts


class _Inputs:
    """What the layers read, prepared once for all that read the same."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._read: dict[ir.Value, _Read] = {}
        self._constants: tuple[ir.Value, ...] = ()

    def of(self, x: ir.Value, node: ir.Node) -> _Read:
        """An activation that the node reads."""
        if x not in self._read:
            split = x.producer()
            if split is not None and split.op_type == "Split" and not split.attributes.get_int("axis", 0):
                self._read_parts(split)
            else:
                self._read[x] = self._quantized(x, node)
        return self._read[x]

    def _read_parts(self, split: ir.Node) -> None:
        """Read the whole and split that: of a part without rows ONNX Runtime gives ReduceMax a wrong shape."""
        assert split.inputs[0] is not None
        whole = self.of(split.inputs[0], split)
        parts = [_split_so(split, value) for value in (whole.small, whole.half, whole.middle)]
        for output, small, half, middle in zip(split.outputs, *parts, strict=True):
            self._read[output] = _Read(small, whole.scale, whole.zero, half, middle)

    def _quantized(self, x: ir.Value, node: ir.Node) -> _Read:
        axis, tiny, half_of = self._constants = self._constants or tuple(
            initializer(self._model, ir.tensor(value, name=f"int8.{name}"))
            for name, value in (
                ("last_axis", np.array([-1])),
                ("tiny", np.float32(TINY)),
                ("half", np.float32(0.5)),
            )
        )
        high, low = (before(node, word, [x, axis], keepdims=1) for word in ("ReduceMax", "ReduceMin"))
        middle = before(node, "Mul", [before(node, "Add", [high, low]), half_of])
        half = before(node, "Max", [before(node, "Mul", [before(node, "Sub", [high, low]), half_of]), tiny])
        even = before(node, "Div", [before(node, "Sub", [x, middle]), half])
        made = ir.node("DynamicQuantizeLinear", [even], num_outputs=3, metadata_props=dict(node.metadata_props))
        assert node.graph is not None
        node.graph.insert_before(node, made)
        small, scale, zero = made.outputs
        return _Read(small, scale, zero, half, middle)
