"""8-bit graphs: weights int8, activations quantized while the model runs, in standard operators only.

    x f32 ── DynamicQuantizeLinear ── x uint8, scale, zero point     one for all layers that read x
             MatMulInteger(x, weight int8, zero point) ── Cast ── * (scale * weight scales) ── f32

Weights are symmetric with one scale for each output, from -127 to 127: `weight = scale * int8`, zero is zero and no
zero point is stored. These are the numbers of onnxruntime.quantization.quantize_dynamic(per_channel=True,
weight_type=QInt8, reduce_range=False), here without a float32 model on disk or in memory.

Seven bits (`reduce_range`) are not used: x86 processors before AVX-512 VNNI and AVX-VNNI add two products of uint8 and
int8 in 16 bits and saturate there (onnxruntime's documentation on quantization, "When and why do I need to try
U8U8?"). On those, ONNX Runtime computes exactly with the session option session.x64quantprecision = "1". Everything
since Ice Lake and Zen 4, and ARM, is exact as it is.
"""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from convert.onnx.half import widen_small
from convert.onnx.linears import (
    Linear,
    Memo,
    Patterns,
    before,
    chosen,
    initializer,
    lazy,
    linears,
    replace,
    split_gemms,
)

KEEP = (re.compile(r"^lm_head\."),)
LIMIT = 127  # -128 would make the range lopsided


def to_int8(model: ir.Model, keep: Patterns | None = None) -> None:
    """The bound model with int8 weights, in place; weights are quantized when they are written.

    `keep`: parameter names whose layers stay as they are; None is KEEP.
    """
    split_gemms(model)
    widen_small(model, None, [found.weight for found in linears(model)])
    activations: dict[ir.Value, list[ir.Value]] = {}
    memo = Memo()
    weights: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
    for linear in chosen(model, KEEP if keep is None else keep):
        if linear.weight not in weights:
            weights[linear.weight] = _weight(model, linear, memo)
        _quantize(linear, *weights[linear.weight], activations)
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


def _weight(model: ir.Model, linear: Linear, memo: Memo) -> tuple[ir.Value, ir.Value]:
    """The two initializers that stand for a weight."""
    shape = (linear.inputs, linear.outputs)
    values = lazy(f"{linear.name}_int8", ir.DataType.INT8, shape, lambda: memo(linear, quantize)[0])
    scales = lazy(f"{linear.name}_scales", ir.DataType.FLOAT, shape[1:], lambda: memo(linear, quantize)[1])
    return initializer(model, values), initializer(model, scales)


def _quantize(linear: Linear, weight: ir.Value, scales: ir.Value, activations: dict[ir.Value, list[ir.Value]]) -> None:
    """Put the integer multiplication in the layer's place."""
    node, x = linear.node, linear.node.inputs[0]
    assert x is not None
    if x not in activations:
        activations[x] = _activation(node, x)
    small, scale, zero = activations[x]
    product = before(node, "MatMulInteger", [small, weight, zero])
    product = before(node, "Cast", [product], to=ir.DataType.FLOAT)
    both = before(node, "Mul", [scale, scales])
    replace(node, before(node, "Mul", [product, both]))


def _activation(node: ir.Node, x: ir.Value) -> list[ir.Value]:
    made = ir.node("DynamicQuantizeLinear", [x], num_outputs=3, metadata_props=dict(node.metadata_props))
    assert node.graph is not None
    node.graph.insert_before(node, made)
    return list(made.outputs)
