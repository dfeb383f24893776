"""The two matrix multiplications of attention: queries with keys, and the softmax with values.

They are found by the softmax between them, so that a multiplication of positions with rotary frequencies, which must
stay in float32, is not taken for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx_ir as ir

from convert.formats.onnx.linears import before, initializer

# What may lie between the scores and the softmax, or between the softmax and its multiplication with the values.
BETWEEN = frozenset(
    {"Add", "Mul", "Div", "Tanh", "Cast", "Where", "Reshape", "Identity", "Transpose", "Slice", "Expand"}
)
MOVES = frozenset({"Reshape", "Transpose", "Identity", "Unsqueeze", "Squeeze", "Expand", "Slice"})


def multiplications(model: ir.Model) -> set[ir.Node]:
    """Both MatMuls of every attention in the graph."""
    found = set(_scores(model))
    for node in _softmaxes(model):
        found |= _reached(node, lambda n: [user for value in n.outputs for user in value.consumers()])
    return found


def scale_queries(model: ir.Model) -> None:
    """Scale the queries, and neither the keys nor the scores: equal numbers otherwise multiplied out of float16.

    torch scales queries and keys by the root of the factor each, which copies the whole cache at every step; a model's
    own code scales the scores, which have then passed float16's range unscaled.
    """
    for scores in _scores(model):
        factor = _take(scores.inputs[1]) * _take_after(scores)
        if factor != 1.0:
            _multiply(model, scores, factor)


def _softmaxes(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "Softmax" and not node.domain]


def _scores(model: ir.Model) -> list[ir.Node]:
    """The MatMul of queries and keys of every softmax, in order."""
    found: dict[ir.Node, None] = {}
    for node in _softmaxes(model):
        found |= dict.fromkeys(_reached(node, lambda n: [v.producer() for v in n.inputs if v is not None]))
    return list(found)


def _reached(start: ir.Node, following: Callable[[ir.Node], Iterable[ir.Node | None]]) -> set[ir.Node]:
    """The first MatMuls met on any way from `start`."""
    found, open_, seen = set(), [start], set()
    while open_:
        for node in following(open_.pop()):
            if node is None or node in seen or node.domain:
                continue
            seen.add(node)
            if node.op_type == "MatMul":
                found.add(node)
            elif node.op_type in BETWEEN or node.op_type in ("IsNaN",):
                open_.append(node)
    return found


def _take(keys: ir.Value | None) -> float:
    """The constant that the keys are multiplied by, which they are no longer; 1 where there is none."""
    node = keys.producer() if keys is not None else None
    while node is not None and node.op_type in MOVES and _only_user(node) and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return _remove(node) if node is not None and _only_user(node) else 1.0


def _take_after(scores: ir.Node) -> float:
    """The constant that the scores are multiplied by right away, which they are no longer."""
    users = scores.outputs[0].consumers()
    return _remove(users[0]) if len(users) == 1 and not scores.outputs[0].is_graph_output() else 1.0


def _remove(node: ir.Node) -> float:
    """Take away a multiplication with one constant and give that; 1 where the node is something else."""
    for value, other in (node.inputs[:2], node.inputs[1::-1]) if node.op_type == "Mul" and not node.domain else ():
        constant = ir.convenience.get_const_tensor(other) if other is not None else None
        if constant is not None and constant.size == 1 and value is not None:
            node.outputs[0].replace_all_uses_with(value)
            assert node.graph is not None
            node.graph.remove(node, safe=True)
            return float(constant.numpy().reshape(()))
    return 1.0


def _multiply(model: ir.Model, scores: ir.Node, factor: float) -> None:
    """Multiply the queries by `factor`, within the multiplication there is, if there is one."""
    queries = scores.inputs[0]
    assert queries is not None
    made = queries.producer()
    if made is not None and _only_user(made):
        factor *= _remove(made)
        queries = scores.inputs[0]
        assert queries is not None
    name = f"{queries.name}.scale"
    scale = initializer(model, ir.tensor(np.float32(factor), name=name))
    scaled = before(scores, "Mul", [queries, scale])
    scaled.shape, scaled.type = queries.shape, queries.type
    scores.replace_input_with(0, scaled)


def _only_user(node: ir.Node) -> bool:
    value = node.outputs[0]
    return len(value.uses()) == 1 and not value.is_graph_output()
