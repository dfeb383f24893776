"""TracedGraph -> graph: standard operators, exact names, and in place of every weight an initializer without a value.

torch.onnx traces the hollow model; its own optimizer stays off, for it would fold what is done to weights into weights
of zeros. Here the weights are inputs while the graph is simplified, so nothing can touch them.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import onnx_ir as ir
import torch

from convert.errors import StageError
from convert.formats.onnx import experts, scans
from convert.formats.onnx.hollow import quiet

if TYPE_CHECKING:
    from convert.formats.onnx.families import TracedGraph

OPSET = 20  # the newest that torch.onnx writes without a conversion
FOLDED_VALUES = 1024  # constants of more values stay operators: they are masks and tables, which cost space
SOURCE = "source"  # metadata of a node: the module it was traced from
SYMBOL = re.compile(r"[su]\d+")  # torch's names of axes


def trace(part: TracedGraph) -> ir.Model:
    """The graph of `part`; its weights are initializers of the right type, shape and name, without values.

    Raises StageError where torch cannot trace it.
    """
    model = _export(part)
    graph = model.graph
    placeholders = _weights_to_inputs(graph, part.parameters)
    _simplify(model)
    for weight in placeholders:
        graph.inputs.remove(weight)
        graph.initializers[weight.name] = weight
    experts.expand(model)
    _name_axes(graph, part)
    _state_reshapes(graph)
    _tidy(model, part)
    check_domains(model)
    return model


def check_domains(model: ir.Model, also: frozenset[str] = frozenset()) -> None:
    """Raise StageError for an operator outside the default domain and those named in `also`."""
    nodes = list(model.graph.all_nodes())
    strange = sorted({f"{node.domain}::{node.op_type}" for node in nodes if node.domain not in {"", *also}})
    if strange or model.functions:
        got = f"the graph has {', '.join(strange or map(str, model.functions))}"
        raise StageError("onnx", got, "standard operators only")


class _Listed(torch.nn.Module):  # type: ignore[misc]  # torch is not followed by mypy here
    """A module that takes its inputs as one list: torch.export describes that in one line."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.part = module

    def forward(self, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        outputs: tuple[torch.Tensor, ...] = self.part(*inputs)
        return outputs


def _export(part: TracedGraph) -> ir.Model:
    dynamic = [dict.fromkeys(given.axes, torch.export.Dim.DYNAMIC) for given in part.inputs.values()]
    examples = {id(given.example) for given in part.inputs.values()}
    assert len(examples) == len(part.inputs), "two inputs with one example: torch.export takes them for one input"
    try:
        with torch.no_grad(), quiet(), scans.in_place(part.module):
            exported = torch.export.export(
                _Listed(part.module).eval(),
                ([given.example for given in part.inputs.values()],),
                dynamic_shapes=(dynamic,),
                strict=False,  # runs the Python as it is; following its bytecode takes twice as long and finds no more
            )
            program = torch.onnx.export(
                exported,
                input_names=list(part.inputs),
                output_names=list(part.outputs),
                opset_version=OPSET,
                dynamo=True,
                optimize=False,
                verbose=False,
            )
    except Exception as error:  # whatever torch says of a model it cannot follow
        cause = error.__cause__ or error
        got = f"torch cannot trace {part.name} ({type(cause).__name__}: {str(cause).strip().splitlines()[0][:300]})"
        raise StageError("onnx", got, "a model without decisions that depend on values") from error
    if program is None:
        raise StageError("onnx", f"torch gave no graph of {part.name}")
    return program.model


def _weights_to_inputs(graph: ir.Graph, parameters: Mapping[str, str]) -> list[ir.Value]:
    """Make the parameters inputs, under the names the whole model has for them; other tensors stay constants."""
    moved = []
    for name, value in list(graph.initializers.items()):
        inner = name.removeprefix("part.")
        if inner not in parameters:
            _rename(graph, value, inner)
            continue
        del graph.initializers[name]
        value.const_value = None
        value.name = parameters[inner]
        graph.inputs.append(value)
        moved.append(value)
    return moved


def _rename(graph: ir.Graph, value: ir.Value, name: str) -> None:
    if value.name != name:
        del graph.initializers[value.name]
        value.name = name
        graph.initializers[name] = value


def _simplify(model: ir.Model) -> None:
    """Fold what is constant, and merge what is computed twice.

    onnxscript tries its patterns on every node, which is most of its time: it gets a graph that is small already.
    """
    from onnx_ir.passes import common
    from onnxscript import rewriter

    try:
        with quiet():
            common.InlinePass()(model)
            _fold(model)
            rewriter.rewrite(model)
            _fold(model)
            ir.passes.Sequential(common.OutputFixPass(), common.NameFixPass())(model)
    except Exception as error:  # a constant that the model made while it was traced has no values
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise StageError("onnx", f"the graph cannot be simplified ({type(cause).__name__}: {cause})"[:300]) from error


def _fold(model: ir.Model) -> None:
    from onnx_ir.passes import common
    from onnxscript import optimizer

    limits = {"input_size_limit": FOLDED_VALUES, "output_size_limit": FOLDED_VALUES}
    optimizer.fold_constants_ir(model, onnx_shape_inference=True, **limits)
    ir.passes.Sequential(
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
    )(model)


def _name_axes(graph: ir.Graph, part: TracedGraph) -> None:
    """Give the changing axes the names of the part's inputs, everywhere: torch calls them s26."""
    named: dict[str, str] = {}
    for value, given in zip(graph.inputs, part.inputs.values(), strict=True):
        for axis, name in given.axes.items():
            named.setdefault(str(value.shape[axis]), name)
        value.shape = ir.Shape([given.axes.get(axis, size) for axis, size in enumerate(given.example.shape)])
        value.metadata_props.clear()
    for value in [output for node in graph.all_nodes() for output in node.outputs]:
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(size, named) for size in value.shape])
    for value in graph.outputs:
        axes = part.output_axes.get(value.name or "", {})
        if value.shape is not None:
            value.shape = ir.Shape([axes.get(axis, size) for axis, size in enumerate(value.shape)])


def _renamed(size: int | ir.SymbolicDim, named: Mapping[str, str]) -> int | ir.SymbolicDim:
    if isinstance(size, int) or size.value is None:
        return size
    return ir.SymbolicDim(SYMBOL.sub(lambda found: named.get(found[0], found[0]), str(size.value)))


def _state_reshapes(graph: ir.Graph) -> None:
    """Replace shapes computed at every step by constants: 0 is the axis as it was, one -1 is what is left.

    With zeros and -1 a decoder layer needs no operator on shapes at all.
    """
    for node in graph:
        if node.op_type != "Reshape" or node.inputs[1] is None or node.inputs[1].const_value is not None:
            continue
        before, after = node.inputs[0], node.outputs[0]
        if before is None or before.shape is None or after.shape is None:
            continue
        if (stated := _stated(before.shape, after.shape)) is not None:
            node.replace_input_with(1, _constant(graph, stated))
            node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)
    _remove_unused(graph)


def _stated(before: ir.Shape, after: ir.Shape) -> tuple[int, ...] | None:
    """The shape for a Reshape in numbers; None where more than one axis cannot be stated."""
    sizes = []
    for axis, size in enumerate(after):
        if isinstance(size, int):
            if size == 0:
                return None
            sizes.append(size)
        elif axis < len(before) and before[axis] == size:
            sizes.append(0)
        else:
            sizes.append(-1)
    return tuple(sizes) if sizes.count(-1) <= 1 else None


def _constant(graph: ir.Graph, numbers: tuple[int, ...]) -> ir.Value:
    """The int64 initializer of these numbers; one for all who need it."""
    name = "shape_" + "_".join(str(n) if n >= 0 else "rest" for n in numbers)
    if name not in graph.initializers:
        tensor = ir.tensor(list(numbers), ir.DataType.INT64, name=name)
        shape, kind = ir.Shape([len(numbers)]), ir.TensorType(ir.DataType.INT64)
        graph.initializers[name] = ir.Value(name=name, shape=shape, type=kind, const_value=tensor)
    return graph.initializers[name]


def _remove_unused(graph: ir.Graph) -> None:
    """Take away nodes and constants that nothing reads; a weight that nothing reads is one the ledger must see."""
    for node in reversed(graph):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def _tidy(model: ir.Model, part: TracedGraph) -> None:
    """Short names and no traces of this machine: what is written must not depend on where it was made."""
    outer = next((i.removesuffix(o) for i, o in part.parameters.items() if i.endswith(o)), "")
    model.metadata_props.clear()
    model.doc_string = None
    graph = model.graph
    graph.name, graph.doc_string = part.name, None
    graph.metadata_props.clear()
    nodes = list(graph.all_nodes())  # those of a Scan's steps too
    for node in nodes:
        source = _source(node.metadata_props, outer)
        node.metadata_props.clear()
        node.doc_string = None
        if source:
            node.metadata_props[SOURCE] = source
        for inner in _inner(node):
            inner.doc_string = None
            inner.metadata_props.clear()
    values = [output for node in nodes for output in node.outputs]
    values += [given for node in nodes for inner in _inner(node) for given in inner.inputs]
    for value in [*graph.initializers.values(), *values]:
        value.metadata_props.clear()
        value.doc_string = None
    _materialize(graph)


def _inner(node: ir.Node) -> list[ir.Graph]:
    """The graphs inside a node: what a Scan does at each step."""
    return [one.as_graph() for one in node.attributes.values() if one.type == ir.AttributeType.GRAPH]


def _source(props: Mapping[str, str], outer: str) -> str:
    """The module a node comes from, as the model names it, and its class: `model.layers.0.mlp.up_proj (Linear)`."""
    try:
        scopes = ast.literal_eval(props.get("pkg.torch.onnx.name_scopes", "[]"))
        classes = ast.literal_eval(props.get("pkg.torch.onnx.class_hierarchy", "[]"))
    except (ValueError, SyntaxError):
        return ""
    if len(scopes) < 2 or len(classes) < 2 or scopes[-2].startswith("_"):  # a hook of torch's own
        return ""
    path = f"{scopes[-2]}.".removeprefix("part.").removeprefix(outer).rstrip(".")
    kind = classes[-2].rpartition(".")[2]
    return f"{path} ({kind})" if path else kind


def _materialize(graph: ir.Graph) -> None:
    """Constants as plain arrays: torch's own tensors would keep the traced model alive."""
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is not None:
            value.const_value = ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=name)
            value.shape, value.type = tensor.shape, ir.TensorType(tensor.dtype)
            value.name = name


def weights(model: ir.Model) -> dict[str, ir.Value]:
    """The initializers that still have no value, by name."""
    return {name: value for name, value in model.graph.initializers.items() if value.const_value is None}


def sizes(value: ir.Value) -> tuple[int, ...]:
    """A weight's shape in numbers."""
    if value.shape is None or not all(isinstance(size, int) for size in value.shape):
        raise StageError("onnx", f"weight {value.name} has no fixed shape")
    return tuple(int(str(size)) for size in value.shape)


def count(model: ir.Model) -> int:
    """Values in all weights together."""
    return sum(math.prod(sizes(value)) for value in weights(model).values())
