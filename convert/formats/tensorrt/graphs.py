"""What an ONNX file says of itself: inputs, outputs, axes, operators, where a node comes from. No weight is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convert.errors import InputError

if TYPE_CHECKING:
    import onnx

AXES = {  # what others call the axes of a text -> our word
    "batch_size": "batch",
    "sequence_length": "sequence",
    "past_sequence_length": "past",
    "total_sequence_length": "total",
}
STANDARD = ("", "ai.onnx")  # the default domain has two names
SOURCE = "source"  # metadata of a node: the module of the model it was traced from


@dataclass(frozen=True)
class Tensor:
    """An input or an output; an axis that changes from call to call is a name."""

    name: str
    dtype: str  # numpy's word, and bfloat16
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class GraphHeader:
    """An ONNX file without its weights."""

    path: Path
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    custom: Mapping[str, int]  # domain::operator outside of the standard -> how many
    sources: Mapping[str, str]  # node -> the module it comes from
    nodes: int
    data: tuple[str, ...]  # files with weights, as the graph names them

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of the inputs' axes that change, each once."""
        return tuple(dict.fromkeys(size for tensor in self.inputs for size in tensor.shape if isinstance(size, str)))


def read_graph(path: Path) -> GraphHeader:
    """The header of the ONNX file at `path`. Raises InputError for what is none."""
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's errors have no common class
        raise InputError(str(path), f"cannot be read ({type(error).__name__})", "an ONNX file") from error
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    custom: dict[str, int] = {}
    nodes = list(_nodes(graph))
    for node in nodes:
        if node.domain not in STANDARD:
            name = f"{node.domain}::{node.op_type}"
            custom[name] = custom.get(name, 0) + 1
    return GraphHeader(
        path,
        tuple(_tensor(value) for value in graph.input if value.name not in weights),
        tuple(_tensor(value) for value in graph.output),
        custom,
        {node.name: prop.value for node in nodes for prop in node.metadata_props if prop.key == SOURCE},
        len(nodes),
        tuple(dict.fromkeys(_locations(graph))),
    )


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from _nodes(attribute.g)
            for inner in attribute.graphs:
                yield from _nodes(inner)


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    from onnx import helper

    kind = value.type.tensor_type
    dtype = str(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return Tensor(value.name, dtype, tuple(_axis(axis.dim_param) or axis.dim_value for axis in kind.shape.dim))


def _axis(name: str) -> str:
    """The name of an axis that changes, or a sum of them."""
    return " + ".join(AXES.get(term, term) for term in name.split(" + "))


def _locations(graph: onnx.GraphProto) -> Iterator[str]:
    for tensor in graph.initializer:
        yield from (entry.value for entry in tensor.external_data if entry.key == "location")
