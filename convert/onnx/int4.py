"""4-bit graphs: MatMulNBits, ONNX Runtime's operator, with the bytes of ONNX Runtime's own quantizer.

    weight (inputs, outputs) -> for each output, blocks of `block_size` inputs: 4-bit values, a float32 scale and, where
                                not symmetric, a 4-bit zero point; the last block is filled up with zeros

The operator's domain is com.microsoft: ONNX Runtime runs it, TensorRT's parser does not know it, and the graph's
metadata says so. Quantized by the function under `MatMulNBitsQuantizer`, a few outputs at a time: blocks do not cross
outputs, so the bytes are those of the whole weight.
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

DOMAIN = "com.microsoft"
NOTE = "convert.not_for", "TensorRT: MatMulNBits is an operator of com.microsoft"
KEEP: Patterns = (re.compile(r"^lm_head\."),)
ACCURACY = 1  # the type activations are multiplied in: 1 float32, 4 int8


def to_int4(model: ir.Model, block_size: int = 32, symmetric: bool = True, keep: Patterns | None = None) -> None:
    """The bound model with 4-bit weights, in place; weights are quantized when they are written.

    `keep`: parameter names whose layers stay as they are; None is KEEP. `block_size` is a power of two from 16 on.
    """
    split_gemms(model)
    widen_small(model, None, [found.weight for found in linears(model)])
    memo = Memo()
    weights: dict[ir.Value, list[ir.Value]] = {}
    for linear in chosen(model, KEEP if keep is None else keep):
        if linear.weight not in weights:
            weights[linear.weight] = _weights(model, linear, block_size, symmetric, memo)
        _quantize(linear, weights[linear.weight], block_size)
    RemoveUnusedNodesPass()(model)
    model.opset_imports[DOMAIN] = 1
    model.metadata_props[NOTE[0]] = NOTE[1]


def quantize(linear: Linear, block_size: int, symmetric: bool) -> tuple[np.ndarray, ...]:
    """(packed, scales[, zero points]) as MatMulNBits takes them.

    packed uint8 (outputs, blocks, block_size / 2), scales float32 (outputs, blocks), zero points uint8
    (outputs, (blocks + 1) / 2), two to a byte, the first in the low four bits.
    """
    from onnxruntime.capi._pybind_state import quantize_matmul_4bits

    packed, scales, zeros = (np.zeros(shape, dtype.numpy()) for shape, dtype in _forms(linear, block_size))
    padding = -linear.inputs % block_size
    for part, columns in linear.chunks():
        padded = np.pad(columns, ((0, padding), (0, 0))) if padding else columns
        pieces = packed[part], scales[part], zeros[part]  # contiguous: whole rows
        _, outputs = padded.shape
        quantize_matmul_4bits(pieces[0], padded, pieces[1], pieces[2], block_size, outputs, linear.inputs, symmetric)
    return (packed, scales) if symmetric else (packed, scales, zeros)


def _forms(linear: Linear, block_size: int) -> list[tuple[tuple[int, ...], ir.DataType]]:
    blocks = -(-linear.inputs // block_size)
    return [
        ((linear.outputs, blocks, block_size // 2), ir.DataType.UINT8),
        ((linear.outputs, blocks), ir.DataType.FLOAT),
        ((linear.outputs, (blocks + 1) // 2), ir.DataType.UINT8),
    ]


def _weights(model: ir.Model, linear: Linear, block_size: int, symmetric: bool, memo: Memo) -> list[ir.Value]:
    """The initializers that stand for a weight."""
    names = ("Q4", "scales") if symmetric else ("Q4", "scales", "zero_points")

    def part(position: int) -> np.ndarray:
        return memo(linear, lambda found: quantize(found, block_size, symmetric))[position]

    return [
        initializer(model, lazy(f"{linear.name}_{name}", dtype, shape, lambda i=i: part(i)))  # type: ignore[misc]
        for i, (name, (shape, dtype)) in enumerate(zip(names, _forms(linear, block_size), strict=False))
    ]


def _quantize(linear: Linear, weights: list[ir.Value], block_size: int) -> None:
    """Put MatMulNBits in the layer's place."""
    node = linear.node
    numbers = {"K": linear.inputs, "N": linear.outputs, "bits": 4, "block_size": block_size}
    made = before(node, "MatMulNBits", [node.inputs[0], *weights], DOMAIN, accuracy_level=ACCURACY, **numbers)
    replace(node, made)
