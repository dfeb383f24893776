"""Attention as onnxruntime-genai's kernels have it: com.microsoft::GroupQueryAttention, the cache and rotation inside.

    q, k, v (batch, token, heads * width) before rotation      seqlens_k = sum(attention_mask) - 1, int32 (batch)
    past_key, past_value ─ GroupQueryAttention ─ present       total_sequence_length = len(attention_mask), int32
    cos_cache, sin_cache (context, width / 2)                  local_window_size where a layer sees a window

Which nodes there are is found in the graph that hollow.py's attention_nodes traced: Attention(q, Concat(past, k),
Concat(past, v), mask). Where q and k are not `x * cos + turned(x) * sin` with angles of the positions alone (positions
along three axes, parts of a head, frequencies that change with the length), they are rotated outside of the kernel, as
they were traced, and do_rotary is 0.

Source: ONNX Runtime, docs/ContribOperators.md; the mask is the kernel's own: causal, or a window of so many tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from convert.errors import StageError
from convert.formats.onnx.linears import before, initializer, replace

DOMAIN = "com.microsoft"
ROTATED = 16  # the kernel turns heads whose width is a multiple of it
ANGLES = frozenset({"Cast", "Unsqueeze", "MatMul", "Mul", "Cos", "Sin", "Concat", "Transpose", "Reshape", "Identity"})
"""What may lie between positions and their sines: each row comes of one position alone."""


@dataclass(frozen=True)
class Shape:
    """What the kernel wants to know of a model."""

    context: int
    windows: Sequence[int]  # of each layer in order: tokens it sees, 0 for all


@dataclass(frozen=True)
class Rotation:
    """x * cos + turned(x) * sin, found in a graph."""

    x: ir.Value  # (batch, heads, token, width)
    cos: ir.Value
    sin: ir.Value


def fuse(model: ir.Model, shape: Shape) -> int:
    """Replace every Attention by the kernel, in place; how many have their rotation inside.

    Raises StageError for one that is not over a cache.
    """
    nodes = [node for node in model.graph if node.op_type == "Attention" and not node.domain]
    if len(nodes) != len(shape.windows):
        got = f"the graph has {len(nodes)} attentions for {len(shape.windows)} layers"
        raise StageError("onnx", got, "one for each layer")
    lengths = _lengths(model, nodes)
    tables: dict[tuple[ir.Value, ir.Value], tuple[ir.Value, ir.Value] | None] = {}
    turned = 0
    for node, window in zip(nodes, shape.windows, strict=True):
        turned += _Fused(model, node, window, lengths).apply(tables, shape.context)
    RemoveUnusedNodesPass()(model)
    model.graph.inputs[:] = [v for v in model.graph.inputs if v.uses() or v.name != "position_ids"]
    model.opset_imports[DOMAIN] = 1
    return turned


def _lengths(model: ir.Model, nodes: Sequence[ir.Node]) -> tuple[ir.Value, ir.Value]:
    """seqlens_k and total_sequence_length, made once."""
    mask = next(value for value in model.graph.inputs if value.name == "attention_mask")
    first = next(iter(model.graph))
    one, axis = (_numbers(model, f"genai.{name}", [n]) for name, n in (("one", 1), ("axis", 1)))
    counted = before(first, "ReduceSum", [mask, axis], keepdims=0)
    seen = before(first, "Cast", [before(first, "Sub", [counted, one])], to=ir.DataType.INT32)
    length = before(first, "Squeeze", [before(first, "Shape", [mask], start=1, end=2)])
    return seen, before(first, "Cast", [length], to=ir.DataType.INT32)


def _numbers(model: ir.Model, name: str, numbers: Sequence[int]) -> ir.Value:
    if name in model.graph.initializers:
        return model.graph.initializers[name]
    return initializer(model, ir.tensor(np.array(numbers, np.int64), name=name))


@dataclass(frozen=True)
class _Fused:
    """One attention, and what replaces it."""

    model: ir.Model
    node: ir.Node
    window: int
    lengths: tuple[ir.Value, ir.Value]

    def apply(self, tables: dict[tuple[ir.Value, ir.Value], tuple[ir.Value, ir.Value] | None], context: int) -> bool:
        """Put the kernel in its place; whether it rotates."""
        query = _plain(self.node.inputs[0])
        (past_k, key, present_k), (past_v, value, present_v) = (_cached(self.node, i) for i in (1, 2))
        turns = _rotation(query), _rotation(_plain(key))
        table = self._table(turns, tables, context)
        if table is not None and turns[0] is not None and turns[1] is not None:
            query, key = turns[0].x, turns[1].x
        heads, shared = _heads(query), _heads(past_k)
        half = past_k.dtype if past_k.dtype != ir.DataType.FLOAT else None
        flat = [self._flat(x, half) for x in (query, key, value)]
        tail = [] if table is None else list(table)
        if half is not None:
            tail = [before(self.node, "Cast", [x], to=half) for x in tail]
        made = self._kernel([*flat, past_k, past_v, *self.lengths, *tail], heads, shared, table is not None)
        self._take_place(made.outputs[0], heads, half is not None)
        for old, new in ((present_k, made.outputs[1]), (present_v, made.outputs[2])):
            _become(self.model, old, new, past_k)
        return table is not None

    def _kernel(self, inputs: Sequence[ir.Value], heads: int, shared: int, rotates: bool) -> ir.Node:
        numbers: dict[str, int | float] = {"num_heads": heads, "kv_num_heads": shared, "do_rotary": int(rotates)}
        numbers |= {"scale": self.node.attributes.get_float("scale", 0.0), "local_window_size": self.window or -1}
        if cap := self.node.attributes.get_float("softcap", 0.0):
            numbers["softcap"] = cap
        props = dict(self.node.metadata_props)
        made = ir.node("GroupQueryAttention", inputs, numbers, domain=DOMAIN, num_outputs=3, metadata_props=props)
        assert self.node.graph is not None
        self.node.graph.insert_before(self.node, made)
        return made

    def _table(
        self,
        turns: tuple[Rotation | None, Rotation | None],
        tables: dict[tuple[ir.Value, ir.Value], tuple[ir.Value, ir.Value] | None],
        context: int,
    ) -> tuple[ir.Value, ir.Value] | None:
        """cos_cache and sin_cache of a layer's angles; None where the kernel cannot turn so."""
        query, key = turns
        if query is None or key is None or (query.cos, query.sin) != (key.cos, key.sin):
            return None
        width = query.x.shape[-1] if query.x.shape is not None else None
        if not isinstance(width, int) or width % ROTATED:
            return None
        pair = query.cos, query.sin
        if pair not in tables:
            tables[pair] = _tabulated(self.model, pair, context, len(tables))
        return tables[pair]

    def _flat(self, rows: ir.Value, half: ir.DataType | None) -> ir.Value:
        """(batch, heads, token, width) -> (batch, token, heads * width)."""
        turned = rows.producer()
        if turned is not None and turned.op_type == "Transpose" and turned.attributes.get_ints("perm") == [0, 2, 1, 3]:
            apart = turned.inputs[0]
        else:
            apart = before(self.node, "Transpose", [rows], perm=[0, 2, 1, 3])
        flat = before(self.node, "Reshape", [apart, _numbers(self.model, "genai.flat", [0, 0, -1])])
        return flat if half is None else before(self.node, "Cast", [flat], to=half)

    def _take_place(self, mixed: ir.Value, heads: int, half: bool) -> None:
        """What read (batch, heads, token, width) reads the kernel's (batch, token, heads * width)."""
        if half:
            mixed = before(self.node, "Cast", [mixed], to=ir.DataType.FLOAT)
        (out,) = self.node.outputs
        users = [user for user, _ in out.uses()]
        apart = before(self.node, "Reshape", [mixed, _numbers(self.model, f"genai.{heads}_heads", [0, 0, heads, -1])])
        if all(user.op_type == "Transpose" and user.attributes.get_ints("perm") == [0, 2, 1, 3] for user in users):
            for user in users:
                replace(user, apart)
            assert self.node.graph is not None
            self.node.graph.remove(self.node, safe=True)
            return
        replace(self.node, before(self.node, "Transpose", [apart], perm=[0, 2, 1, 3]))


def _become(model: ir.Model, old: ir.Value, new: ir.Value, past: ir.Value) -> None:
    """The output of the graph that was the longer cache is the kernel's."""
    name = old.name
    new.shape, new.type = old.shape, ir.TensorType(past.dtype)
    model.graph.outputs[:] = [new if value is old else value for value in model.graph.outputs]
    old.name, new.name = f"{name}.traced", name


def _plain(value: ir.Value | None) -> ir.Value:
    """The value in front of Casts."""
    assert value is not None
    node = value.producer()
    while node is not None and node.op_type == "Cast" and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _cached(node: ir.Node, position: int) -> tuple[ir.Value, ir.Value, ir.Value]:
    """(past, new, present) of what an attention reads. Raises StageError where it is no cache with new rows behind."""
    joined = _plain(node.inputs[position]).producer()
    if joined is None or joined.op_type != "Concat" or len(joined.inputs) != 2:
        raise StageError("onnx", f"attention {node.name} reads no cache", "past keys and values, and new ones behind")
    past, new = joined.inputs
    (whole,) = joined.outputs
    if past is None or new is None or not past.is_graph_input() or not str(past.name).startswith("past_key_values."):
        raise StageError("onnx", f"attention {node.name} reads no cache", "past keys and values, and new ones behind")
    present = whole if whole.is_graph_output() else _given(whole)
    return past, new, present


def _given(whole: ir.Value) -> ir.Value:
    """The output of the graph that is `whole` in another type."""
    casts = [user.outputs[0] for user, _ in whole.uses() if user.op_type == "Cast"]
    found = next((value for value in casts if value.is_graph_output()), None)
    if found is None:
        raise StageError("onnx", f"{whole.name} is no output", "the longer cache among the outputs")
    return found


def _heads(rows: ir.Value) -> int:
    size = rows.shape[1] if rows.shape is not None else None
    if not isinstance(size, int):
        raise StageError("onnx", f"{rows.name} has no fixed number of heads", "one")
    return size


# ---- rotation


def _rotation(value: ir.Value) -> Rotation | None:
    """What a value is turned from and by; None for one that is not turned so."""
    node = value.producer()
    if node is None or node.op_type != "Add":
        return None
    sides = [_plain(side).producer() for side in node.inputs]
    for one, other in (sides, sides[::-1]):
        if one is None or other is None or one.op_type != "Mul" or other.op_type != "Mul":
            return None
        for x, cos in (one.inputs, one.inputs[::-1]):
            for turned, sin in (other.inputs, other.inputs[::-1]):
                if x is not None and cos is not None and sin is not None and _is_turned(turned, x):
                    return Rotation(x, cos, sin)
    return None


def _is_turned(value: ir.Value | None, x: ir.Value) -> bool:
    """Whether a value is (-second half of x, first half of x)."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Concat" or len(node.inputs) != 2:
        return False
    minus, first = (side.producer() if side is not None else None for side in node.inputs)
    if minus is None or first is None or minus.op_type != "Neg" or minus.inputs[0] is None:
        return False
    second = minus.inputs[0].producer()
    width = x.shape[-1] if x.shape is not None else None
    return isinstance(width, int) and _is_part(first, x, 0, width // 2) and _is_part(second, x, width // 2, width)


def _is_part(node: ir.Node | None, x: ir.Value, start: int, stop: int) -> bool:
    """Whether a node gives x[..., start:stop]."""
    if node is None or node.inputs[0] is not x:
        return False
    if node.op_type == "Split":
        return len(node.outputs) == 2 and node.attributes.get_int("axis", 0) in (-1, 3)
    if node.op_type != "Slice" or len(node.inputs) < 4:
        return False
    numbers = [_number(value) for value in node.inputs[1:5]]
    ends = numbers[1] == stop or (start > 0 and (numbers[1] or 0) > stop)  # torch's end of an axis is beyond it
    return numbers[0] == start and ends and numbers[2] in (-1, 3)


def _number(value: ir.Value | None) -> int | None:
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return int(tensor.numpy().reshape(-1)[0]) if tensor is not None and tensor.size == 1 else None


def _tabulated(
    model: ir.Model, pair: tuple[ir.Value, ir.Value], context: int, number: int
) -> tuple[ir.Value, ir.Value] | None:
    """Cosines and sines of every position, by running the part of the graph that makes them; None for others."""
    nodes = _above(pair)
    if nodes is None:
        return None
    found = [_run(model, nodes, value, context) for value in pair]
    if any(table is None for table in found):
        return None
    tables: list[ir.Value] = []
    for table, name in zip(found, ("cos_cache", "sin_cache"), strict=True):
        assert table is not None
        width = table.shape[1] // 2
        if not np.array_equal(table[:, :width], table[:, width:]):
            return None
        tensor = ir.tensor(np.ascontiguousarray(table[:, :width]), name=f"{name}.{number}" if number else name)
        tables.append(initializer(model, tensor))
    return tables[0], tables[1]


def _above(values: Sequence[ir.Value]) -> list[ir.Node] | None:
    """The nodes between position_ids and values, in order; None where another input or operator has a say in them."""
    open_, found = [value.producer() for value in values], set[ir.Node]()
    while open_:
        node = open_.pop()
        if node is None or node in found:
            continue
        if node.domain or node.op_type not in ANGLES:
            return None
        found.add(node)
        for value in node.inputs:
            if value is None or value.is_initializer():
                continue
            if value.is_graph_input():
                if value.name != "position_ids" or value.shape is None or len(value.shape) != 2:
                    return None
            else:
                open_.append(value.producer())
    graph = next(iter(found)).graph if found else None
    return [node for node in graph if node in found] if graph is not None else None


def _run(model: ir.Model, nodes: Sequence[ir.Node], value: ir.Value, context: int) -> np.ndarray | None:
    """float32 (context, width): `value` of the positions 0, 1, ..., computed by onnx's own definitions."""
    from onnx.reference import ReferenceEvaluator

    copies: dict[ir.Value, ir.Value] = {}
    given = ir.Value(name="position_ids", shape=ir.Shape([1, context]), type=ir.TensorType(ir.DataType.INT64))
    constants: list[ir.Value] = []

    def copied(old: ir.Value | None) -> ir.Value | None:
        if old is None:
            return None
        if old.is_graph_input():
            return given
        if old not in copies:
            copies[old] = ir.Value(name=old.name, const_value=old.const_value, shape=old.shape, type=old.type)
            constants.append(copies[old])
        return copies[old]

    made = []
    for node in nodes:
        twin = ir.node(node.op_type, [copied(v) for v in node.inputs], dict(node.attributes.items()))
        for old, new in zip(node.outputs, twin.outputs, strict=True):
            new.name = old.name
            copies[old] = new
        made.append(twin)
    result = copies[value]
    result.shape, result.type = None, ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([given], [result], nodes=made, initializers=constants, opset_imports=dict(model.opset_imports))
    proto = ir.to_proto(ir.Model(graph, ir_version=model.ir_version))
    (table,) = ReferenceEvaluator(proto).run(None, {"position_ids": np.arange(context)[None]})
    flat = np.asarray(table, np.float32)
    return flat.reshape(context, -1) if flat.size % context == 0 and flat.shape[-2] == context else None
