"""An ONNX graph of somebody else's: what goes in and out, in which type it computes, which files its weights are in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from convert.distribution import install_command
from convert.errors import InputError
from convert.source.untrusted import inside, shown

if TYPE_CHECKING:
    import onnx

LARGEST = 1 << 31  # bytes; what protobuf reads
MAX_DATA_FILES = 1000
INTEGERS = ("MatMulInteger", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "QLinearMatMul", "MatMulIntegerToFloat")
FLOATS = {1: "fp32", 10: "fp16", 16: "bf16", 11: "fp64"}  # TensorProto.DataType


@dataclass(frozen=True)
class Graph:
    """A graph as its file describes it."""

    path: Path
    type: str  # fp32, int4, …
    data: tuple[Path, ...]  # the files its weights are in
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read_graph(path: Path) -> Graph:
    """The graph in the file at `path`; no weight outside of the file is read.

    Raises InputError for what is no ONNX file, and for weights outside of its folder.
    """
    model = _load(path)
    graph = model.graph
    if not graph.node or not graph.output:
        raise InputError(str(path), "holds no graph", "an ONNX graph")
    own = {tensor.name for tensor in graph.initializer}
    inputs = tuple(value.name for value in graph.input if value.name not in own)
    return Graph(path, _type(model), _data(path, model), inputs, tuple(value.name for value in graph.output))


def _load(path: Path) -> onnx.ModelProto:
    from importlib.util import find_spec

    if find_spec("onnx") is None:
        raise InputError(str(path), "needs onnx to be read", "", install_command("onnx"))
    import onnx

    if path.stat().st_size >= LARGEST:
        raise InputError(str(path), "is larger than 2 GiB, and no ONNX file can be", "an ONNX file")
    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's errors have no common class
        wanted = "a GGUF file or an ONNX graph"
        if path.suffix == ".onnx":
            got, remedy = "is no ONNX graph, or was cut short", "make or download it again"
            raise InputError(str(path), got, "an ONNX graph", remedy) from error
        if path.suffix == ".gguf":
            got = "does not begin as GGUF files do"
            raise InputError(str(path), got, "a GGUF file", "make or download it again") from error
        raise InputError(str(path), "is not a file of a known format", wanted) from error


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that a model holds: initializers and constants, of branches and of functions too."""
    graphs, nodes = [model.graph], [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            yield from (part for sparse in graph.sparse_initializer for part in (sparse.values, sparse.indices))
            nodes += graph.node
            continue
        for attribute in nodes.pop().attribute:
            yield from (attribute.t, *attribute.tensors)
            yield from (part for one in attribute.sparse_tensors for part in (one.values, one.indices))
            graphs += [attribute.g, *attribute.graphs] if attribute.g.node else attribute.graphs


def _data(path: Path, model: onnx.ModelProto) -> tuple[Path, ...]:
    """The files beside it that hold weights, each large enough for what is said to lie in it."""
    ends: dict[str, int] = {}
    for tensor in _tensors(model):
        said = {entry.key: entry.value for entry in tensor.external_data}
        if tensor.data_location == 1 or said:  # EXTERNAL
            name = said.get("location", "")
            end = _number(path, tensor, said.get("offset", "0")) + _number(path, tensor, said.get("length", "0"))
            ends[name] = max(ends.get(name, 0), end)
        if len(ends) > MAX_DATA_FILES:
            raise InputError(str(path), "names more than a thousand files of weights", f"at most {MAX_DATA_FILES}")
    files = []
    for name, end in ends.items():
        file = inside(path.parent, name, path)
        size = file.stat().st_size
        if end > size:
            raise InputError(str(file), f"has {size} bytes, {path.name} reads up to {end}", "a whole file")
        files.append(file)
    return tuple(files)


def _number(path: Path, tensor: onnx.TensorProto, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InputError(str(path), f"places the weight {shown(tensor.name)} at {shown(text)}", "a number of bytes")
    return int(text)


def _type(model: onnx.ModelProto) -> str:
    """int4, int8 and so on by the operators that multiply in them, else the float type that most weights have there."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    bits = Counter(_bits(node) for node in nodes if node.op_type == "MatMulNBits")
    if bits:
        return f"int{bits.most_common(1)[0][0]}"
    if any(node.op_type in INTEGERS for node in nodes):
        return "int8"
    # what is stored in one type and only read to be cast to another computes in the other
    cast = {node.input[0]: _attribute(node, "to") for node in nodes if node.op_type == "Cast" and node.input}
    values: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        if word := FLOATS.get(cast.get(tensor.name, tensor.data_type)):
            values[word] += max(0, prod(tensor.dims))
    return values.most_common(1)[0][0] if values else "fp32"


def _bits(node: onnx.NodeProto) -> int:
    said = _attribute(node, "bits")
    return said if said in (2, 4, 8) else 4


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), 0)
