"""The linear layers of a graph, whatever lies between a weight and its matrix multiplication.

    linears(model)      every `MatMul(x, f(weight))`, f a chain of Cast, Transpose, Reshape: the layout of a checkpoint
                        is (out, in), so there is a Transpose; and where it stores 16 bits, a Cast
    chosen(model, keep) those of them that no pattern of `keep` names
    head(model)         the one that gives the logits

Gemm is split into MatMul and Add first (`split_gemms`), so that there is one form to know.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnx_ir as ir

Patterns = Sequence[re.Pattern[str]]
_Of = TypeVar("_Of")
FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
BETWEEN = frozenset({"Cast", "Transpose", "Reshape", "Identity"})  # on the way from a weight to its MatMul
PRODUCTS = (re.compile(r"\bdown_proj\b"), re.compile(r"\bDenseReluDense\.wo\b"), re.compile(r"\bmlp\.Wo\b"))
"""Layers that read a product of two activations: in some tokens it is thousands of times what it is in others."""
CHUNK = 1 << 20  # weights widened to float32 at a time: 4 MB


@dataclass(frozen=True)
class Linear:
    """One matrix multiplication with a weight: `x @ matrix`, and the matrix is (inputs, outputs)."""

    node: ir.Node
    weight: ir.Value  # an initializer
    tensor: ir.TensorProtocol  # of the weight; graph and initializer may change before it is read
    moves: tuple[tuple[str, tuple[int, ...]], ...]  # from the weight to the node: (Transpose, axes), (Reshape, shape)
    inputs: int
    outputs: int

    @property
    def name(self) -> str:
        """The parameter's name: model.layers.0.mlp.down_proj.weight."""
        return str(self.weight.name)

    def matrix(self) -> np.ndarray:
        """The weight as (inputs, outputs) in its stored type: a view of the checkpoint's file where it is mapped."""
        return _moved(self.tensor.numpy(), self.moves)

    def chunks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Slices of the outputs, and float32 (inputs, slice) of each: a weight is never widened whole."""
        matrix, step = self.matrix(), max(1, CHUNK // self.inputs)
        for start in range(0, self.outputs, step):
            part = slice(start, min(start + step, self.outputs))
            yield part, np.ascontiguousarray(matrix[:, part], dtype=np.float32)


class Memo:
    """What was made of one thing, until another is asked for: values and scales are written one after the other."""

    def __init__(self) -> None:
        self._of: object = None
        self._made: tuple[np.ndarray, ...] = ()

    def __call__(self, of: _Of, make: Callable[[_Of], tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
        if self._of is not of:
            self._made = ()  # before the next is made: one in memory
            self._made = make(of)
            self._of = of
        return self._made


def linears(model: ir.Model) -> list[Linear]:
    """Every matrix multiplication with a weight, in the graph's order; rotary frequencies are no weight."""
    rotary = angles(model)
    found = (_linear(node) for node in model.graph if node not in rotary)
    return [linear for linear in found if linear is not None]


def chosen(model: ir.Model, keep: Patterns) -> list[Linear]:
    """The linear layers that no pattern names; the head answers to lm_head.weight too, where it is tied."""
    last = head(model)
    return [found for found in linears(model) if not named(found, keep, is_head=last is found.node)]


def lookups(model: ir.Model) -> list[Linear]:
    """Every table of embeddings as the layer it would be, rows being outputs; a table of sines is no parameter."""
    return [found for node in model.graph if (found := _lookup(node)) is not None]


def chosen_lookups(model: ir.Model, keep: Patterns, layers: Sequence[Linear]) -> list[Linear]:
    """The tables that no pattern names, and that are not kept for a layer that is none of `layers`."""
    changed = {found.node for found in layers}
    kept = {found.weight for found in linears(model) if found.node not in changed}
    return [table for table in lookups(model) if table.weight not in kept and not named(table, keep, is_head=False)]


def named(linear: Linear, keep: Patterns, *, is_head: bool) -> bool:
    """Whether a pattern of `keep` is found in the name of the layer's weight."""
    names = (linear.name, "lm_head.weight") if is_head else (linear.name,)
    return any(pattern.search(name) for pattern in keep for name in names)


def head(model: ir.Model) -> ir.Node | None:
    """The MatMul whose result, perhaps capped or scaled, is the output `logits`; None in a graph without logits."""
    output = next((value for value in model.graph.outputs if value.name == "logits"), None)
    node = output.producer() if output is not None else None
    while node is not None and node.op_type != "MatMul":
        makers = [value.producer() for value in node.inputs if value is not None]
        node = next((made for made in makers if made is not None and made.op_type != "Constant"), None)
    return node if node is not None and _linear(node) is not None else None


def split_gemms(model: ir.Model) -> None:
    """Every plain `Gemm(x, weight, bias)` becomes MatMul and Add: torch writes one where x has two axes."""
    for node in list(model.graph):
        if node.op_type == "Gemm" and _plain(node):
            _split(model.graph, node)


def lazy(name: str, dtype: ir.DataType, shape: Sequence[int], load: Callable[[], np.ndarray]) -> ir.LazyTensor:
    """A tensor that is computed when it is written."""
    return ir.LazyTensor(lambda: ir.tensor(load(), dtype=dtype, name=name), dtype, ir.Shape(shape), name=name)


def initializer(model: ir.Model, tensor: ir.TensorProtocol) -> ir.Value:
    """A new initializer of the graph that holds `tensor`."""
    value = ir.Value(
        name=tensor.name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    model.graph.register_initializer(value)
    return value


def before(
    node: ir.Node, op: str, inputs: Sequence[ir.Value | None], domain: str = "", **attributes: object
) -> ir.Value:
    """The result of a new node that stands in front of `node` and says the same of where it comes from."""
    props = dict(node.metadata_props)
    made = ir.node(op, inputs, attributes=attributes or None, domain=domain, metadata_props=props)
    assert node.graph is not None
    node.graph.insert_before(node, made)
    return made.outputs[0]


def replace(node: ir.Node, result: ir.Value) -> None:
    """`result` takes the place and the name of the node's only output, and the node goes."""
    (old,) = node.outputs
    result.shape = old.shape
    if result.dtype is None:
        result.type = old.type
    name, old.name = old.name, None
    old.replace_all_uses_with(result, replace_graph_outputs=True)
    result.name = name
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def is_weight(value: ir.Value | None) -> bool:
    """Whether a value is an initializer of floats that holds data."""
    return value is not None and value.is_initializer() and value.const_value is not None and value.dtype in FLOATS


def _linear(node: ir.Node) -> Linear | None:
    if node.domain or node.op_type != "MatMul" or node.inputs[1] is None:
        return None
    moves: list[tuple[str, tuple[int, ...]]] = []
    value = node.inputs[1]
    while not is_weight(value):
        producer = value.producer() if value is not None else None
        if producer is None or producer.domain or producer.op_type not in BETWEEN:
            return None
        move = _move(producer)
        if move is None:
            return None
        moves[:0] = [move] if move[0] in ("Transpose", "Reshape") else []
        value = producer.inputs[0]
    assert value is not None
    assert value.const_value is not None
    shape = _moved(np.broadcast_to(np.int8(0), value.const_value.shape.numpy()), moves).shape
    return Linear(node, value, value.const_value, tuple(moves), *shape) if len(shape) == 2 else None


def _lookup(node: ir.Node) -> Linear | None:
    weight = node.inputs[0] if node.inputs else None
    if node.op_type != "Gather" or node.domain or node.attributes.get_int("axis", 0) or weight is None:
        return None
    tensor = weight.const_value
    if not is_weight(weight) or tensor is None or len(tensor.shape) != 2 or not str(weight.name).endswith(".weight"):
        return None
    rows, columns = tensor.shape.numpy()
    return Linear(node, weight, tensor, (("Transpose", (1, 0)),), columns, rows)


def widened_rows(table: Linear) -> list[ir.Node]:
    """The nodes that give a table's rows in float32: the Casts behind its Gather, or the Gather itself."""
    users = table.node.outputs[0].consumers()
    if table.weight.dtype == ir.DataType.FLOAT:
        return [table.node]
    casts = all(node.op_type == "Cast" and node.attributes.get_int("to") == ir.DataType.FLOAT for node in users)
    return list(users) if casts and not table.node.outputs[0].is_graph_output() else []


def _move(node: ir.Node) -> tuple[str, tuple[int, ...]] | None:
    """What a node between a weight and its MatMul does; None where that depends on other values."""
    if node.op_type == "Transpose":
        return "Transpose", tuple(node.attributes.get_ints("perm", ()))
    if node.op_type == "Reshape" and node.inputs[1] is not None:
        shape = ir.convenience.get_const_tensor(node.inputs[1])
        return None if shape is None else ("Reshape", tuple(shape.numpy().tolist()))
    return node.op_type, ()


def _moved(array: np.ndarray, moves: Sequence[tuple[str, tuple[int, ...]]]) -> np.ndarray:
    for move, numbers in moves:
        array = array.transpose(numbers or None) if move == "Transpose" else array.reshape(numbers)
    return array


def angles(model: ir.Model) -> set[ir.Node]:
    """What gives the angles that Sin and Cos are taken of: positions times frequencies, which 16 bits cannot hold."""
    open_ = [node for node in model.graph if node.op_type in ("Sin", "Cos")]
    found: set[ir.Node] = set()
    while open_:
        makers = {value.producer() for value in open_.pop().inputs if value is not None} - found - {None}
        found |= makers
        open_ += [node for node in makers if node.op_type != "MatMul"]
    return found


def _plain(node: ir.Node) -> bool:
    numbers = node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)
    return numbers == (1.0, 1.0) and not node.attributes.get_int("transA", 0)


def _split(graph: ir.Graph, node: ir.Node) -> None:
    x, weight, bias = (*node.inputs, None)[:3]
    if node.attributes.get_int("transB", 0):
        weight = before(node, "Transpose", [weight], perm=[1, 0])
    result = before(node, "MatMul", [x, weight])
    if bias is not None:
        result.shape, result.type = node.outputs[0].shape, node.outputs[0].type
        result = before(node, "Add", [result, bias])
    replace(node, result)
