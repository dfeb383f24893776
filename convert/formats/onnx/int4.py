"""4-bit graphs: MatMulNBits, ONNX Runtime's operator, with scales of less error than its own quantizer's.

    weight (inputs, outputs) -> for each output, blocks of `block_size` inputs: 4-bit values, a float32 scale and, where
                                not symmetric, a 4-bit zero point; the last block is filled up with zeros

The operator's domain is com.microsoft: ONNX Runtime runs it, TensorRT's parser does not know it, and the graph's
metadata says so. Who makes the numbers is said by `encode` (blocks.py), a few outputs at a time: blocks do not cross
outputs, so the bytes are those of the whole weight.

Choices, measured on the model in recipes/models/fara-nano (8192 positions of text, blocks of 32, symmetric):

- the layer that gives the logits has 8 bits: mean KL against float32 is 0.9e-3 with it and with the stored
  weights, 2.0e-3 with 4 bits. Stored weights would be widened to float32 by ONNX Runtime, four times what the
  processor then has to read for every token. A vision tower, which is a small part of a model, has 8 bits throughout:
  the embeddings of six images are 0.9 % off, with 4 bits 8.6 %. So has a table of embeddings (mean KL 1e-6 by itself),
  whose rows are widened by standard operators; a head that is tied to it reads the same bytes.
- v_proj has 8 bits: mean KL of SmolLM2-135M falls by a quarter, for a hundredth of the bytes where heads share keys.
- accuracy_level is 4: activations are multiplied as int8, in blocks with a scale each. Mean KL 1.0e-3 against 0.9e-3
  with level 1 (float32), and a token at a time 2.7 times as fast (1536 x 8960, one core, AVX-512 VNNI). It is what
  onnxruntime-genai's builder writes; where two tokens are almost equally likely it may choose the other
  (github.com/microsoft/onnxruntime/issues/29849).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from convert.formats.onnx.blocks import Encode, Int4, rounded
from convert.formats.onnx.half import widen_small
from convert.formats.onnx.linears import (
    PRODUCTS,
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
    named,
    replace,
    split_gemms,
    widened_rows,
)
from quantize.nbits_layout import Layout

DOMAIN = "com.microsoft"
NOTE = "convert.not_for", "TensorRT: MatMulNBits is an operator of com.microsoft"
KEEP: Patterns = ()
FINE_BITS = 8  # of a vision tower
ACCURACY = 4  # the type activations are multiplied in: 1 float32, 4 int8
ENDINGS = ("Q{bits}", "scales", "zero_points")
SCALES = {"F32": ir.DataType.FLOAT, "F16": ir.DataType.FLOAT16}
VALUES = (re.compile(r"\bv_proj\b"),)
NUMBER = re.compile(r"\.(\d+)\.")


def to_int4(
    model: ir.Model,
    asked: Int4 | None = None,
    keep: Patterns | None = None,
    encode: Encode = rounded,
    is_half: Callable[[Linear], bool] | None = None,
) -> None:
    """The bound model with 4-bit weights, in place; weights are quantized, by `encode`, when they are written.

    `keep`: parameter names whose layers stay as they are; None is KEEP. `is_half`: which layers' activations will be
    float16, and so are their scales; of one that is a table too, the scales that both read.
    """
    split_gemms(model)
    words = KEEP if keep is None else keep
    layers = chosen(model, words)
    tables = chosen_lookups(model, words, layers)
    widen_small(model, None, [found.weight for found in (*linears(model), *lookups(model))])
    layouts = _Layouts.of(model, asked or Int4(), layers, tables, is_half)
    memo = Memo()
    weights: dict[tuple[ir.Value, Layout], list[ir.Value]] = {}
    for linear in (*layers, *tables):
        form = Form(linear, layouts.of_layer(linear))
        key = linear.weight, form.layout
        if key not in weights:
            weights[key] = _weights(model, form, memo, encode)
        (_look_up if linear in tables else _quantize)(form, weights[key])
    RemoveUnusedNodesPass()(model)
    if layers:
        model.opset_imports[DOMAIN] = 1
        model.metadata_props[NOTE[0]] = NOTE[1]


@dataclass(frozen=True)
class _Layouts:
    """How each layer of a graph is stored."""

    asked: Int4
    is_vision: bool
    last: ir.Node | None
    tables: Sequence[Linear]
    edges: frozenset[str]  # the first and the last of those that read products
    halves: frozenset[str]  # whose scales are float16

    @classmethod
    def of(
        cls,
        model: ir.Model,
        asked: Int4,
        layers: Sequence[Linear],
        tables: Sequence[Linear],
        is_half: Callable[[Linear], bool] | None,
    ) -> _Layouts:
        products = {_number(one.name): one.name for one in layers if named(one, PRODUCTS, is_head=False)}
        edges = frozenset(products[number] for number in (min(products), max(products))) if products else frozenset()
        is_vision = all(output.name != "logits" for output in model.graph.outputs)
        halves = frozenset(layer.name for layer in layers if is_half is not None and is_half(layer))
        return cls(asked, is_vision, head(model), tables, edges, halves)

    def of_layer(self, linear: Linear) -> Layout:
        if linear in self.tables:
            bits = self.asked.embed
        elif linear.node is self.last:
            bits = self.asked.lm_head
        elif linear.name in self.edges:
            bits = self.asked.edge_down
        elif named(linear, VALUES, is_head=False):
            bits = self.asked.v_proj
        else:
            bits = FINE_BITS if self.is_vision else 4
        layout = self.asked.layout(bits, linear.inputs)
        return replace_(layout, scales="F16") if linear.name in self.halves else layout


def _number(name: str) -> int:
    """The layer's, by the first number in a parameter's name."""
    found = NUMBER.search(name)
    return int(found[1]) if found else -1


@dataclass(frozen=True)
class Form:
    """A layer, and how its weight is stored."""

    linear: Linear
    layout: Layout

    def parts(self) -> list[tuple[str, tuple[int, ...], ir.DataType]]:
        """Ending, shape and type of what stands for the weight: values, scales and, where there are some, zeros."""
        shapes = self.layout.shapes(self.linear.outputs, self.linear.inputs)
        kinds = ir.DataType.UINT8, SCALES[self.layout.scales], ir.DataType.UINT8
        words = [word.format(bits=self.layout.bits) for word in ENDINGS]
        return list(zip(words, shapes, kinds, strict=False))


def _weights(model: ir.Model, form: Form, memo: Memo, encode: Encode) -> list[ir.Value]:
    """The initializers that stand for a weight."""

    def made(form: Form) -> tuple[np.ndarray, ...]:
        return encode(form.linear, form.layout)

    def part(position: int) -> np.ndarray:
        array = memo(form, made)[position]
        return array.astype(np.float16) if position == 1 and form.layout.scales == "F16" else array

    return [
        initializer(model, lazy(f"{form.linear.name}_{ending}", dtype, shape, functools.partial(part, position)))
        for position, (ending, shape, dtype) in enumerate(form.parts())
    ]


def _quantize(form: Form, weights: list[ir.Value]) -> None:
    """Put MatMulNBits in the layer's place."""
    node, layout = form.linear.node, form.layout
    numbers = {"K": form.linear.inputs, "N": form.linear.outputs, "bits": layout.bits, "block_size": layout.block_size}
    replace(node, before(node, "MatMulNBits", [node.inputs[0], *weights], DOMAIN, accuracy_level=ACCURACY, **numbers))


def _look_up(form: Form, weights: list[ir.Value]) -> None:
    """Take rows of blocks, and widen them with the scales and zero points of their rows."""
    tokens, layout = form.linear.node.inputs[1], form.layout
    if tokens is None or tokens.shape is None:
        return
    filled = layout.blocks(form.linear.inputs) * layout.block_size
    for node in widened_rows(form.linear):
        values, scales, *zeros = (before(node, "Gather", [part, tokens]) for part in weights)
        values = _numbers(node, values, layout.bits)
        scales = scales if layout.scales == "F32" else before(node, "Cast", [scales], to=ir.DataType.FLOAT)
        last = before(node, "Constant", [], value_ints=[-1])
        zero = before(node, "Constant", [], value_float=float(layout.middle))
        if zeros:
            zero = before(node, "Unsqueeze", [_zeros(node, zeros[0], form), last])
        rows = before(node, "Mul", [before(node, "Sub", [values, zero]), before(node, "Unsqueeze", [scales, last])])
        flat = before(node, "Constant", [], value_ints=[0] * len(tokens.shape) + [filled])
        rows = before(node, "Reshape", [rows, flat])
        if filled != form.linear.inputs:
            rows = _first(node, rows, form.linear.inputs)
        replace(node, rows)


def _zeros(node: ir.Node, packed: ir.Value, form: Form) -> ir.Value:
    """float32 (…, blocks) of packed zero points; an odd number of 4 bits has one more beside it."""
    layout = form.layout
    blocks = layout.blocks(form.linear.inputs)
    zeros = _numbers(node, packed, layout.bits)
    return _first(node, zeros, blocks) if layout.bits == 4 and blocks % 2 else zeros


def _numbers(node: ir.Node, packed: ir.Value, bits: int) -> ir.Value:
    """float32 of bytes: one number each, or two of 4 bits, which are taken apart by operators every runtime has."""
    wide = before(node, "Cast", [packed], to=ir.DataType.FLOAT)
    if bits == 8:
        return wide
    sixteen = before(node, "Constant", [], value_float=16.0)
    upper = before(node, "Floor", [before(node, "Div", [wide, sixteen])])
    lower = before(node, "Sub", [wide, before(node, "Mul", [upper, sixteen])])
    last = before(node, "Constant", [], value_ints=[-1])
    pair = before(node, "Concat", [before(node, "Unsqueeze", [half, last]) for half in (lower, upper)], axis=-1)
    # (…, bytes, 2) -> (…, 2 * bytes): 0 is the axis as it is, -1 the last two together
    axes = _axes(packed)
    return before(node, "Reshape", [pair, before(node, "Constant", [], value_ints=[0] * (axes - 1) + [-1])])


def _axes(value: ir.Value) -> int:
    """Of what a Gather of rows gives: those of the tokens, and those of a row."""
    node = value.producer()
    assert node is not None
    table, tokens = node.inputs
    assert table is not None
    assert tokens is not None
    assert table.shape is not None
    assert tokens.shape is not None
    return len(tokens.shape) + len(table.shape) - 1


def _first(node: ir.Node, rows: ir.Value, count: int) -> ir.Value:
    """As many of the last axis."""
    bounds = ([0], [count], [-1])
    return before(node, "Slice", [rows, *(before(node, "Constant", [], value_ints=b) for b in bounds)])
