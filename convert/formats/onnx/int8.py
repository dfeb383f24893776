"""8-bit graphs: weights int8, activations quantized while the model runs, in standard operators only.

    x f32 ── DynamicQuantizeLinear ── x uint8, scale, zero point     one for all layers that read x
             MatMulInteger(x, weight int8, zero point) ── Cast ── * (scale * weight scales) ── f32

Weights are symmetric with one scale for each output, from -127 to 127: `weight = scale * int8`, zero is zero and no
zero point is stored. These are the numbers of onnxruntime.quantization.quantize_dynamic(per_channel=True,
weight_type=QInt8, reduce_range=False), here without a float32 model on disk or in memory.

Tables of embeddings have one scale for each row; a head that is tied to one reads the same bytes, transposed.

Where that falls short: an activation has one scale for all its tokens, and what a down projection reads (PRODUCTS) is
thousands of times larger in a few tokens than in the others, which are rounded to nothing. So there each token is
divided by its largest value first, and its result multiplied by it. On the model in recipes/models/fara-nano (text,
8192 positions) mean KL against float32 falls from 7.6e-3 to 1.2e-4; all layers so would give 1.0e-4, and with lm_head
left as it is 0.8e-4: not worth the operators and the bytes. The table in 8 bits alone gives 2e-6.

Seven bits (`reduce_range`) are not used: x86 processors before AVX-512 VNNI and AVX-VNNI add two products of uint8 and
int8 in 16 bits and saturate there. On those ONNX Runtime computes exactly with the session option
session.x64quantprecision = "1" (github.com/microsoft/onnxruntime/pull/12088). Everything since Ice Lake and Zen 4, and
ARM, is exact as it is.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from convert.formats.onnx.half import widen_small
from convert.formats.onnx.linears import (
    PRODUCTS,
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
    named,
    replace,
    split_gemms,
    widened_rows,
)

KEEP: Patterns = ()
LIMIT = 127  # -128 would make the range lopsided
TINY = 1e-30  # a token of zeros is divided by it


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
    weights: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
    for linear in (*layers, *tables):
        if linear.weight not in weights:
            weights[linear.weight] = _weight(model, linear, linear.weight in rows, memo)
    for linear in layers:
        values, scales = weights[linear.weight]
        if linear.weight in rows:
            values = before(linear.node, "Transpose", [values], perm=[1, 0])
        _quantize(linear, values, scales, inputs)
    for table in tables:
        _look_up(table, *weights[table.weight])
    RemoveUnusedNodesPass()(model)


def quantize(linear: Linear) -> tuple[np.ndarray, np.ndarray]:
    """(int8 (inputs, outputs), float32 (outputs,)): the weight, and what its columns have to be multiplied by."""
    whole = np.empty((linear.inputs, linear.outputs), np.int8)
    scales = np.empty(linear.outputs, np.float32)
    for part, columns in linear.chunks():
        # float64 as the peer divides, float32 as it stores; a column of zeros has the scale 1
        scale = (np.abs(columns).max(axis=0).astype(np.float64) / LIMIT).astype(np.float32)
        scales[part] = np.where(scale < np.finfo(np.float32).tiny, np.float32(1), scale)
        whole[:, part] = np.clip(np.rint(columns / scales[part]), -LIMIT, LIMIT)
    return whole, scales


def _weight(model: ir.Model, linear: Linear, rows: bool, memo: Memo) -> tuple[ir.Value, ir.Value]:
    """The two initializers that stand for a weight; in a table of `rows` outputs come first."""
    shape = (linear.outputs, linear.inputs) if rows else (linear.inputs, linear.outputs)

    def load() -> np.ndarray:
        whole = memo(linear, quantize)[0]
        return np.ascontiguousarray(whole.T) if rows else whole

    values = lazy(f"{linear.name}_int8", ir.DataType.INT8, shape, load)
    scales = lazy(f"{linear.name}_scales", ir.DataType.FLOAT, (linear.outputs,), lambda: memo(linear, quantize)[1])
    return initializer(model, values), initializer(model, scales)


def _look_up(table: Linear, values: ir.Value, scales: ir.Value) -> None:
    """Take rows of int8, and multiply each by its scale."""
    for node in widened_rows(table):
        tokens = table.node.inputs[1]
        rows = before(node, "Cast", [before(node, "Gather", [values, tokens])], to=ir.DataType.FLOAT)
        last = before(node, "Constant", [], value_ints=[-1])
        size = before(node, "Unsqueeze", [before(node, "Gather", [scales, tokens]), last])
        replace(node, before(node, "Mul", [rows, size]))


def _quantize(linear: Linear, weight: ir.Value, scales: ir.Value, inputs: _Inputs) -> None:
    """Put the integer multiplication in the layer's place."""
    node, x = linear.node, linear.node.inputs[0]
    assert x is not None
    rows = None
    if named(linear, PRODUCTS, is_head=False):
        x, rows = inputs.evened(x, node)
    small, scale, zero = inputs.quantized(x, node)
    product = before(node, "MatMulInteger", [small, weight, zero])
    product = before(node, "Cast", [product], to=ir.DataType.FLOAT)
    both = before(node, "Mul", [scale, scales])
    product = before(node, "Mul", [product, both])
    replace(node, product if rows is None else before(node, "Mul", [product, rows]))


class _Inputs:
    """What the layers read, prepared once for all that read the same."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._quantized: dict[ir.Value, tuple[ir.Value, ...]] = {}
        self._evened: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        self._constants: tuple[ir.Value, ir.Value] | None = None

    def quantized(self, x: ir.Value, node: ir.Node) -> tuple[ir.Value, ...]:
        """uint8, scale and zero point of an activation."""
        if x not in self._quantized:
            made = ir.node("DynamicQuantizeLinear", [x], num_outputs=3, metadata_props=dict(node.metadata_props))
            assert node.graph is not None
            node.graph.insert_before(node, made)
            self._quantized[x] = tuple(made.outputs)
        return self._quantized[x]

    def evened(self, x: ir.Value, node: ir.Node) -> tuple[ir.Value, ir.Value]:
        """An activation whose tokens all have the largest value 1, and what each was divided by."""
        if x not in self._evened:
            split = x.producer()
            if split is not None and split.op_type == "Split" and not split.attributes.get_int("axis", 0):
                self._even_parts(split)
            else:
                self._evened[x] = self._even(x, node)
        return self._evened[x]

    def _even(self, x: ir.Value, node: ir.Node) -> tuple[ir.Value, ir.Value]:
        axis, tiny = self._constants = self._constants or (
            initializer(self._model, ir.tensor(np.array([-1]), name="int8.last_axis")),
            initializer(self._model, ir.tensor(np.float32(TINY), name="int8.tiny")),
        )
        rows = before(node, "ReduceMax", [before(node, "Abs", [x]), axis], keepdims=1)
        rows = before(node, "Max", [rows, tiny])
        return before(node, "Div", [x, rows]), rows

    def _even_parts(self, split: ir.Node) -> None:
        """Even the whole before it is split: of a part without rows ONNX Runtime gives ReduceMax a wrong shape."""
        whole, *counts = split.inputs
        assert whole is not None
        assert split.graph is not None
        parts = []
        for value in self.evened(whole, split):
            made = ir.node("Split", [value, *counts], {"axis": 0}, num_outputs=len(split.outputs))
            made.metadata_props.update(split.metadata_props)
            split.graph.insert_before(split, made)
            parts.append(made.outputs)
        self._evened |= dict(zip(split.outputs, zip(*parts, strict=True), strict=True))
