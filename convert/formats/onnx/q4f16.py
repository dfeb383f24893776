"""4-bit weights and float16 activations, which browsers' GPUs are fastest with; float32 where float16 has no room.

    x f16 ── MatMulNBits, scales f16 ── + residual, rotary positions, softmax, SwiGLU product: f16
    norms (squares, means, roots), angles, and what passes float16's range: f32, with a Cast where the two meet

What passes it is found by running the graph, its activations in float32, over rows of text (ranges.py): every operator
with an input or an output beyond LIMIT stays float32. A graph that takes no tokens, a vision tower, is not run: there
the multiplications alone are float16, and what lies between them stays float32.

What masks tokens out is as far from 0 as float32 goes; in float16 that would be infinity, and a row of a softmax that
is masked out whole not a number. MASKED is far enough.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from convert.formats.onnx import attention
from convert.formats.onnx.blocks import Encode, Int4
from convert.formats.onnx.half import LARGEST, Types
from convert.formats.onnx.int4 import to_int4
from convert.formats.onnx.linears import Linear, Patterns, angles, initializer, lazy, split_gemms

HALF = ir.DataType.FLOAT16
LIMIT = LARGEST / 4  # other texts go farther than those that were run
MASKED = np.float32(-LARGEST / 8)
OPERATORS = frozenset(
    {"Add", "Sub", "Mul", "Div", "Neg", "Sigmoid", "Tanh", "Erf", "Gelu", "Relu", "Softmax", "MatMul", "MatMulNBits"}
)
"""What may run in float16; all else that computes stays float32."""
NORMS = frozenset({"ReduceMean", "ReduceSum", "Sqrt", "Reciprocal", "Pow"})
NBITS = "MatMulNBits"


def candidates(model: ir.Model) -> list[ir.Node]:
    """The nodes that run in float16 if their numbers fit into it."""
    wide = _norms(model) | angles(model)
    return [node for node in model.graph if node.op_type in OPERATORS and node not in wide and _is_float(node)]


def to_q4f16(
    model: ir.Model, asked: Int4, keep: Patterns | None, encode: Encode, beyond: Collection[str] | None
) -> None:
    """The bound model in 4 bits and float16, in place; weights are quantized when they are written.

    `beyond`: the values that pass LIMIT, by name; None of a graph that was not run.
    """
    split_gemms(model)
    products = attention.multiplications(model)
    attention.scale_queries(model)
    limit_masks(model)
    chosen = set(candidates(model)) if beyond is not None else products
    wide = {node for node in chosen if beyond is not None and not _fits(node, beyond)}

    def fits(linear: Linear) -> bool:
        return beyond is None or _fits(linear.node, beyond)

    before = set(model.graph)
    to_int4(model, asked, keep, encode, fits)
    layers = [node for node in model.graph if node.op_type == NBITS and node not in before]
    scales = [node.inputs[2] for node in layers if node.inputs[2] is not None]
    narrow = {scale for scale in scales if scale.dtype == HALF}
    halves = {node for node in chosen - wide if node.graph is model.graph}
    halves = {node for node in halves if node.op_type != "MatMul" or node in products}
    halves |= {node for node in layers if node.inputs[2] in narrow}
    _Types(model.graph, HALF, halves, narrow).apply()
    _fold(model)
    RemoveUnusedNodesPass()(model)


class _Types(Types):
    """Of MatMulNBits the activations and the scales are half, and nothing else."""

    def _wanted(self, node: ir.Node, position: int, value: ir.Value) -> bool:
        if node.op_type == NBITS:
            return node in self.halves and position in (0, 2)
        return super()._wanted(node, position, value)


def _is_float(node: ir.Node) -> bool:
    """Whether it gives float32; weights of a multiplication may be stored otherwise."""
    return all(value.dtype == ir.DataType.FLOAT for value in node.outputs)


def _fits(node: ir.Node, beyond: Collection[str]) -> bool:
    values = [*node.inputs, *node.outputs]
    return not any(value is not None and value.name in beyond for value in values)


def _norms(model: ir.Model) -> set[ir.Node]:
    """Squares, means and roots, and what is computed with those, as far as the normed values."""
    found: set[ir.Node] = set()
    for node in model.graph:
        makers = {value.producer() for value in node.inputs if value is not None}
        squares = node.op_type == "Mul" and len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
        behind = node.op_type in OPERATORS and any(_is_statistic(made, found) for made in makers)
        if node.op_type in NORMS or squares or behind:
            found.add(node)
    return found


def _is_statistic(node: ir.Node | None, norms: Collection[ir.Node]) -> bool:
    """Whether a node gives a mean or a root; not the values that were divided by one."""
    if node is None or node not in norms:
        return False
    if node.op_type in ("ReduceMean", "ReduceSum", "Sqrt", "Reciprocal"):
        return True
    others = [value for value in node.inputs if value is not None and value.const_value is None]
    return node.op_type == "Add" and len(others) == 1 and _is_statistic(others[0].producer(), norms)


def limit_masks(model: ir.Model) -> None:
    """Constants that float16 does not have, as they stand for a token that is not seen."""
    constants = [node.outputs[0] for node in model.graph if node.op_type == "Constant"]
    for value in [*model.graph.initializers.values(), *constants]:
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size != 1:
            continue
        number = float(tensor.numpy().reshape(-1)[0])
        if number < -LARGEST and all(node.op_type in ("Where", "Expand", "Mul") for node, _ in value.uses()):
            shape = tensor.shape.numpy()
            value.replace_all_uses_with(
                initializer(model, ir.tensor(np.full(shape, MASKED), name=f"{value.name}.limited"))
            )


def _fold(model: ir.Model) -> None:
    """Constants and norms' weights in the type they are used in: no Cast is left to a runtime."""
    for node in list(model.graph):
        value = node.inputs[0] if node.op_type == "Cast" and node.inputs else None
        if value is None or value.const_value is None or not value.is_initializer() or value.dtype != ir.DataType.FLOAT:
            continue
        if node.attributes.get_int("to") != HALF or node.outputs[0].is_graph_output():
            continue
        name = f"{value.name}.half"
        made = model.graph.initializers.get(name) or initializer(model, _narrowed(value.const_value, name))
        node.outputs[0].replace_all_uses_with(made)
        model.graph.remove(node, safe=True)


def _narrowed(tensor: ir.TensorProtocol, name: str) -> ir.LazyTensor:
    return lazy(name, HALF, tensor.shape.numpy(), lambda: tensor.numpy().astype(np.float16))
