"""What an ONNX file says of itself, for a person: no weight is read, and no file beside it is opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from convert.errors import InputError
from convert.formats.onnx import portability

STANDARD = ("", "ai.onnx")  # the default domain has two names
OPERATORS = 4  # the most frequent that are named
LARGEST = 1 << 31  # bytes; what protobuf reads


def read_onnx(path: Path) -> tuple[Mapping[str, object], list[tuple[str, str, tuple[int, ...], int]]]:
    """Facts by name, and (name, type, shape, bytes) of every weight. Raises InputError for what is no ONNX file."""
    if path.stat().st_size >= LARGEST:
        raise InputError(str(path), "is larger than 2 GiB, and no ONNX file can be", "an ONNX file")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's errors have no common class
        raise InputError(str(path), f"cannot be read ({type(error).__name__})", "an ONNX file") from error
    graph = model.graph
    if not graph.node:
        raise InputError(str(path), "holds no graph", "an ONNX file")
    weights = {tensor.name for tensor in graph.initializer}
    operators = Counter(node.op_type for node in graph.node).most_common(OPERATORS)
    files = [e.value for t in graph.initializer for e in t.external_data if e.key == "location"]
    facts: dict[str, object] = {
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        **{f"opset of {entry.domain or 'ai.onnx'}": entry.version for entry in model.opset_import},
        **{f"input {value.name}": _shape(value) for value in graph.input if value.name not in weights},
        **{f"output {value.name}": _shape(value) for value in graph.output},
        "operators": f"{len(graph.node)}, of them {', '.join(f'{n} {op}' for op, n in operators)}",
        "operators outside of the standard": _custom(graph) or "none",
        **portability.facts(model),
        "weights in": ", ".join(dict.fromkeys(files)) or "this file",
        **{prop.key: prop.value for prop in model.metadata_props},
    }
    return facts, [_weight(tensor) for tensor in graph.initializer]


def _custom(graph: onnx.GraphProto) -> str:
    found = Counter(f"{node.domain}::{node.op_type}" for node in graph.node if node.domain not in STANDARD)
    return ", ".join(f"{count} of {name}" for name, count in found.items())


def _shape(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type
    axes = ", ".join(str(axis.dim_param or axis.dim_value) for axis in kind.shape.dim)
    return f"{TensorProto.DataType.Name(kind.elem_type).lower()} ({axes})"


def _weight(tensor: TensorProto) -> tuple[str, str, tuple[int, ...], int]:
    shape, stored = tuple(tensor.dims), [int(e.value) for e in tensor.external_data if e.key == "length"]
    size = stored[0] if stored else prod(shape) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return tensor.name, TensorProto.DataType.Name(tensor.data_type), shape, size
