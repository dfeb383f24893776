"""4-bit graphs: MatMulNBits, ONNX Runtime's operator, with the bytes of ONNX Runtime's own quantizer.

    weight (inputs, outputs) -> for each output, blocks of `block_size` inputs: 4-bit values, a float32 scale and, where
                                not symmetric, a 4-bit zero point; the last block is filled up with zeros

The operator's domain is com.microsoft: ONNX Runtime runs it, TensorRT's parser does not know it, and the graph's
metadata says so. Quantized by the function under `MatMulNBitsQuantizer`, a few outputs at a time: blocks do not cross
outputs, so the bytes are those of the whole weight.

Choices, measured on the model in recipes/models/fara-nano (8192 positions of text, blocks of 32, symmetric):

- the layer that gives the logits has 8 bits (FINE_BITS): mean KL against float32 is 0.9e-3 with it and with the stored
  weights, 2.0e-3 with 4 bits. Stored weights would be widened to float32 by ONNX Runtime, four times what the
  processor then has to read for every token. A vision tower, which is a small part of a model, has 8 bits throughout:
  the embeddings of six images are 0.9 % off, with 4 bits 8.6 %. So has a table of embeddings (mean KL 1e-6 by itself),
  whose rows are widened by standard operators; a head that is tied to it reads the same bytes.
- accuracy_level is 4: activations are multiplied as int8, in blocks with a scale each. Mean KL 1.0e-3 against 0.9e-3
  with level 1 (float32), and a token at a time 2.7 times as fast (1536 x 8960, one core, AVX-512 VNNI). It is what
  onnxruntime-genai's builder writes; where two tokens are almost equally likely it may choose the other
  (github.com/microsoft/onnxruntime/issues/29849).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

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
    head,
    initializer,
    lazy,
    linears,
    lookups,
    replace,
    split_gemms,
    widened_rows,
)

DOMAIN = "com.microsoft"
NOTE = "convert.not_for", "TensorRT: MatMulNBits is an operator of com.microsoft"
KEEP: Patterns = ()
BITS, FINE_BITS = 4, 8
ACCURACY = 4  # the type activations are multiplied in: 1 float32, 4 int8


def to_int4(model: ir.Model, block_size: int = 32, symmetric: bool = True, keep: Patterns | None = None) -> None:
    """The bound model with 4-bit weights, in place; weights are quantized when they are written.

    `keep`: parameter names whose layers stay as they are; None is KEEP. `block_size` is a power of two from 16 on.
    """
    split_gemms(model)
    words = KEEP if keep is None else keep
    layers, last = chosen(model, words), head(model)
    tables = chosen_lookups(model, words, layers)
    is_vision = all(output.name != "logits" for output in model.graph.outputs)
    widen_small(model, None, [found.weight for found in (*linears(model), *lookups(model))])
    memo = Memo()
    weights: dict[tuple[ir.Value, int], list[ir.Value]] = {}
    for linear in (*layers, *tables):
        fine = is_vision or linear.node is last or linear in tables
        form = Form(linear, FINE_BITS if fine else BITS, block_size, symmetric)
        key = linear.weight, form.bits
        if key not in weights:
            weights[key] = _weights(model, form, memo)
        (_look_up if linear in tables else _quantize)(form, weights[key])
    RemoveUnusedNodesPass()(model)
    if layers:
        model.opset_imports[DOMAIN] = 1
        model.metadata_props[NOTE[0]] = NOTE[1]


@dataclass(frozen=True)
class Form:
    """A layer, and how its weight is stored."""

    linear: Linear
    bits: int
    block_size: int
    symmetric: bool

    def parts(self) -> list[tuple[str, tuple[int, ...], ir.DataType]]:
        """Ending, shape and type of what stands for the weight: values, scales and, where there are some, zeros."""
        blocks = -(-self.linear.inputs // self.block_size)
        outputs, packed = self.linear.outputs, 8 // self.bits
        parts = [
            (f"Q{self.bits}", (outputs, blocks, self.block_size // packed), ir.DataType.UINT8),
            ("scales", (outputs, blocks), ir.DataType.FLOAT),
            ("zero_points", (outputs, -(-blocks // packed)), ir.DataType.UINT8),
        ]
        return parts[:2] if self.symmetric else parts


def quantize(form: Form) -> tuple[np.ndarray, ...]:
    """(values, scales[, zero points]) as MatMulNBits takes them: of two 4-bit numbers the first is in the low half."""
    from onnxruntime.capi._pybind_state import quantize_matmul_4bits, quantize_matmul_8bits

    kernel = {4: quantize_matmul_4bits, 8: quantize_matmul_8bits}[form.bits]
    made = tuple(np.zeros(shape, dtype.numpy()) for _, shape, dtype in form.parts())
    padding = -form.linear.inputs % form.block_size
    for part, columns in form.linear.chunks():
        padded = np.pad(columns, ((0, padding), (0, 0))) if padding else columns
        pieces = [whole[part] for whole in made]  # whole rows: the kernel writes into them
        if form.symmetric:
            pieces.append(np.zeros(0, np.uint8))
        kernel(
            pieces[0],
            padded,
            pieces[1],
            pieces[2],
            form.block_size,
            padded.shape[1],
            form.linear.inputs,
            form.symmetric,
        )
    return made


def _weights(model: ir.Model, form: Form, memo: Memo) -> list[ir.Value]:
    """The initializers that stand for a weight."""

    def part(position: int) -> np.ndarray:
        return memo(form, quantize)[position]

    return [
        initializer(model, lazy(f"{form.linear.name}_{ending}", dtype, shape, functools.partial(part, position)))
        for position, (ending, shape, dtype) in enumerate(form.parts())
    ]


def _quantize(form: Form, weights: list[ir.Value]) -> None:
    """Put MatMulNBits in the layer's place."""
    node = form.linear.node
    numbers = {"K": form.linear.inputs, "N": form.linear.outputs, "bits": form.bits, "block_size": form.block_size}
    replace(node, before(node, "MatMulNBits", [node.inputs[0], *weights], DOMAIN, accuracy_level=ACCURACY, **numbers))


def _look_up(form: Form, weights: list[ir.Value]) -> None:
    """Take rows of 8-bit blocks, and widen them with the scales and zero points of their rows."""
    tokens = form.linear.node.inputs[1]
    if tokens is None or tokens.shape is None:
        return
    filled = weights[0].shape.numpy()[1] * form.block_size
    for node in widened_rows(form.linear):
        values, scales, *zeros = (before(node, "Gather", [part, tokens]) for part in weights)
        values = before(node, "Cast", [values], to=ir.DataType.FLOAT)
        last = before(node, "Constant", [], value_ints=[-1])
        zero = before(node, "Constant", [], value_float=float(1 << (form.bits - 1)))
        if zeros:
            zero = before(node, "Unsqueeze", [before(node, "Cast", zeros, to=ir.DataType.FLOAT), last])
        rows = before(node, "Mul", [before(node, "Sub", [values, zero]), before(node, "Unsqueeze", [scales, last])])
        flat = before(node, "Constant", [], value_ints=[0] * len(tokens.shape) + [filled])
        rows = before(node, "Reshape", [rows, flat])
        if filled != form.linear.inputs:
            bounds = ([0], [form.linear.inputs], [-1])
            rows = before(node, "Slice", [rows, *(before(node, "Constant", [], value_ints=b) for b in bounds)])
        replace(node, rows)
