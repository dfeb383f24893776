"""16-bit graphs: matrix multiplications in float16 or bfloat16, everything between them in float32.

    x f32 ── Cast ── MatMul(half weight) ── Cast ── + bias, norm, softmax, rotary positions, SwiGLU product: f32

What runs in the half type: the linear layers, convolutions, and the two multiplications of attention (queries with
keys, and the softmax with values). The key-value cache is held, concatenated and repeated in it; the residual stream,
which adds up what every layer says, never leaves float32. Weights and embedding tables are stored in it; norm weights
and biases, a few kilobytes, in float32 where they are not in it already.

How the Casts stay few: operators that only move elements (Reshape, Concat, ...) have no type of their own. Values
they connect form a group, and the group is half where everything that comes into it is, or everything that leaves it
must be. A Cast stands only where two types meet, once for every value.

float16 ends at 65504, and models trained in bfloat16 pass that in one place above all: the product of two activations
that goes into a down projection (256 * 262 in layer 30 of a Llama 2, github.com/huggingface/transformers/issues/27179;
github.com/ggml-org/llama.cpp/pull/27016 found the same operator). So by default these multiply in float32, from
weights stored in float16 (KEEP).

bfloat16 has float32's range but eight bits of precision: logits of 16 to 32 are then an eighth apart, many are equal,
and greedy decoding takes the first of them. So the layer that gives the logits multiplies in float32, from weights
stored in bfloat16. On the model in recipes/models/fara-nano (576 positions, every product rounded) that is a mean KL
of 2.5e-6 and the same first token in 99.8 %, instead of 2.8e-5 and 97.1 %. float16 is at 4e-7 and 99.8 % without it;
attention in float32 would change neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from convert.errors import InputError
from convert.formats.onnx import attention
from convert.formats.onnx.linears import (
    FLOATS,
    PRODUCTS,
    Patterns,
    chosen,
    is_weight,
    lazy,
    linears,
    lookups,
    replace,
    split_gemms,
)

KEEP: dict[ir.DataType, Patterns] = {
    ir.DataType.FLOAT16: PRODUCTS,
    ir.DataType.BFLOAT16: (re.compile(r"^lm_head\."),),
}
CACHE = ("past_key_values.", "present.")  # inputs and outputs that take the half type
LARGEST = 65504.0  # of float16
# Operators that move elements and change none: the positions of their inputs that hold these elements.
MOVES: dict[str, tuple[int, ...] | None] = {  # None: all of them
    **dict.fromkeys(("Concat",)),
    **dict.fromkeys(("Reshape", "Transpose", "Expand", "Slice", "Unsqueeze", "Squeeze", "Identity"), (0,)),
    **dict.fromkeys(("Gather", "GatherND", "GatherElements", "Split", "Flatten", "Tile"), (0,)),
    **dict.fromkeys(("ScatterElements", "ScatterND"), (0, 2)),
}
ANY_TYPE = frozenset({"Shape", "Size", "Cast"})  # take what they are given


def to_half(model: ir.Model, dtype: ir.DataType, keep: Patterns | None = None) -> None:
    """The bound model in 16 bits, in place; weights are converted when they are written.

    `keep`: parameter names whose layers multiply in float32 (from weights of 16 bits); None is KEEP.
    Raises InputError, when a weight is converted, if float16 cannot hold it.
    """
    split_gemms(model)
    multiplications = attention.multiplications(model)
    attention.scale_queries(model)
    layers = {found.node for found in chosen(model, KEEP[dtype] if keep is None else keep)}
    images = convolutions(model)
    layers |= images.keys()
    weights = [found.weight for found in (*linears(model), *lookups(model))]
    weights += [value for values in images.values() for value in values]
    for weight in dict.fromkeys(weights):
        _bare(weight)
        weight.const_value = stored(_held(weight), dtype)
        weight.type = ir.TensorType(dtype)  # not weight.dtype: that changes the type other copies share
    widen_small(model, dtype, dict.fromkeys(weights))
    Types(model.graph, dtype, layers | multiplications, weights).apply()
    RemoveUnusedNodesPass()(model)


def convolutions(model: ir.Model) -> dict[ir.Node, list[ir.Value]]:
    """Every convolution with a weight -> its weight, and its bias where nothing else reads that."""
    found: dict[ir.Node, list[ir.Value]] = {}
    for node in model.graph:
        if node.op_type in {"Conv", "ConvTranspose"} and not node.domain:
            held = [value for value in map(_source, node.inputs[1:]) if value is not None and is_weight(value)]
            if held and held[0] is _source(node.inputs[1]):
                found[node] = [held[0], *(bias for bias in held[1:] if len(bias.uses()) == 1)]
    return found


def _source(value: ir.Value | None) -> ir.Value | None:
    """What a value is behind the Casts to float32 in front of it."""
    node = value.producer() if value is not None else None
    return _source(node.inputs[0]) if node is not None and _widens(node) else value


def stored(tensor: ir.TensorProtocol, dtype: ir.DataType) -> ir.TensorProtocol:
    """A tensor in `dtype`: itself where it is that already, so that its bytes can be shared; else computed lazily."""
    if tensor.dtype == dtype:
        return tensor
    name = str(tensor.name)

    def load() -> np.ndarray:
        with np.errstate(over="ignore"):
            made: np.ndarray = tensor.numpy().astype(dtype.numpy())
        if not np.isfinite(made).all():
            raise InputError(
                name,
                f"holds values of up to {np.abs(tensor.numpy().astype(np.float32)).max():.6g}",
                f"finite values of at most {LARGEST:g}, which is what float16 ends at"
                if dtype == ir.DataType.FLOAT16
                else "finite values",
                "use precision: bf16 or fp32",
            )
        return made

    return lazy(name, dtype, tensor.shape.numpy(), load)


def widen_small(model: ir.Model, dtype: ir.DataType | None, large: Iterable[ir.Value]) -> None:
    """Norm weights, biases and the like become float32 without a Cast, but where they are of `dtype` already."""
    beside = set(large)
    for value in list(model.graph.initializers.values()):
        if value in beside or value.dtype not in FLOATS - {ir.DataType.FLOAT, dtype}:
            continue
        if all(_widens(node) for node, _ in value.uses()):
            _bare(value)
            value.const_value = stored(_held(value), ir.DataType.FLOAT)
            value.type = ir.TensorType(ir.DataType.FLOAT)


def _bare(weight: ir.Value) -> None:
    """Take away the Casts to float32 behind a weight, its first movements included: types are decided anew."""
    for node, _ in list(weight.uses()):
        if _widens(node):
            if node.outputs[0].is_graph_output():
                replace(node, weight)
            else:
                node.outputs[0].replace_all_uses_with(weight)
                assert node.graph is not None
                node.graph.remove(node, safe=True)
        elif node.op_type in MOVES and len(node.outputs) == 1:
            _bare(node.outputs[0])


def _widens(node: ir.Node) -> bool:
    return node.op_type == "Cast" and not node.domain and node.attributes.get_int("to") == ir.DataType.FLOAT


def _held(weight: ir.Value) -> ir.TensorProtocol:
    assert weight.const_value is not None
    return weight.const_value


class Types:
    """Which values of a graph are half, and the Casts where two types meet."""

    def __init__(self, graph: ir.Graph, dtype: ir.DataType, halves: set[ir.Node], weights: Iterable[ir.Value]) -> None:
        self.graph, self.dtype, self.halves = graph, dtype, halves
        self.ends = {v for v in chain(graph.inputs, graph.outputs) if str(v.name).startswith(CACHE)}
        self.groups = _groups(graph)
        natives = {*weights, *(v for v in graph.inputs if v in self.ends)}
        self.half = natives | {node.outputs[0] for node in halves}
        for group in {id(g): g for g in self.groups.values()}.values():
            if self._is_half(group):
                self.half |= {v for v in group if _moved(v)}
        self.casts: dict[tuple[ir.Value, bool], ir.Value] = {}

    def apply(self) -> None:
        """Write the types into the graph."""
        for node in list(self.graph):
            for position, value in enumerate(node.inputs):
                if value is not None and (wanted := self._wanted(node, position, value)) != (value in self.half):
                    node.replace_input_with(position, self._cast(value, wanted, node))
        for position, value in enumerate(list(self.graph.outputs)):
            if (value in self.half) != (value in self.ends):
                self._output(position, value)
        for value in self.half:
            value.type = ir.TensorType(self.dtype)

    def _is_half(self, group: set[ir.Value]) -> bool:
        """Whether moved values of a group are half: cache, or all that comes in is, or all that goes out must be."""
        if group & self.ends:
            return True
        sources = [v in self.half for v in group if not _moved(v)]
        sinks = [
            self._wanted(node, position, value)
            for value in group
            for node, position in value.uses()
            if not _moves(node, position) and node.op_type not in ANY_TYPE - {"Cast"}
        ]
        outputs = [False for value in group if value.is_graph_output()]
        return (bool(sources) and all(sources)) or (bool(sinks) and all(sinks) and not outputs)

    def _wanted(self, node: ir.Node, position: int, value: ir.Value) -> bool:
        """Whether this input has to be half."""
        if node in self.halves:
            return True
        if _moves(node, position):
            return node.outputs[0] in self.half
        return value in self.half and node.op_type in ANY_TYPE

    def _cast(self, value: ir.Value, half: bool, node: ir.Node) -> ir.Value:
        """`value` in the other type: one Cast for all who want it, in front of the first of them."""
        if (value, half) not in self.casts:
            to = self.dtype if half else ir.DataType.FLOAT
            made = ir.node("Cast", [value], {"to": to}, metadata_props=dict(node.metadata_props))
            made.outputs[0].shape, made.outputs[0].type = value.shape, ir.TensorType(to)
            self.graph.insert_before(node, made)
            self.casts[value, half] = made.outputs[0]
        return self.casts[value, half]

    def _output(self, position: int, value: ir.Value) -> None:
        """Give an output of the graph its type; its name stays its own."""
        to = self.dtype if value in self.ends else ir.DataType.FLOAT
        made = ir.node("Cast", [value], {"to": to})
        result, name = made.outputs[0], value.name
        result.shape, result.type = value.shape, ir.TensorType(to)
        self.graph.append(made)
        self.graph.outputs[position] = result
        value.name, result.name = f"{name}.wide" if value in self.ends else f"{name}.half", name


def _groups(graph: ir.Graph) -> dict[ir.Value, set[ir.Value]]:
    """Every value with those that movements connect it to, itself included."""
    groups: dict[ir.Value, set[ir.Value]] = {}
    for node in graph:
        if node.op_type not in MOVES or node.domain:
            continue
        members: set[ir.Value] = set(node.outputs)
        for position, value in enumerate(node.inputs):
            if value is not None and _moves(node, position):
                members |= groups.get(value, {value})
        for value in members:
            groups[value] = members
    return groups


def _moves(node: ir.Node, position: int) -> bool:
    """Whether the node hands on, unchanged, the elements of this input."""
    if node.op_type not in MOVES or node.domain:
        return False
    places = MOVES[node.op_type]
    return places is None or position in places


def _moved(value: ir.Value) -> bool:
    """Whether a value is made by an operator that has no type of its own."""
    node = value.producer()
    return node is not None and node.op_type in MOVES and not node.domain
