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
from convert.source.untrusted import shown

STANDARD = ("", "ai.onnx")  # the default domain has two names
OPERATORS = 4  # the most frequent that are named
LARGEST = 1 << 31  # bytes; what protobuf reads
MAX_DIGITS = 18  # of a number of bytes


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
    return facts, [_weight(path, tensor) for tensor in graph.initializer]


def _custom(graph: onnx.GraphProto) -> str:
    found = Counter(f"{node.domain}::{node.op_type}" for node in graph.node if node.domain not in STANDARD)
    return ", ".join(f"{count} of {name}" for name, count in found.items())


def _shape(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type
    axes = ", ".join(str(axis.dim_param or axis.dim_value) for axis in kind.shape.dim)
    return f"{(_type(kind.elem_type) or 'undefined').lower()} ({axes})"


def _type(number: int) -> str:
    """The name of a type, empty of a number that stands for none."""
    return TensorProto.DataType.Name(number) if number in TensorProto.DataType.values() and number else ""


def _weight(path: Path, tensor: TensorProto) -> tuple[str, str, tuple[int, ...], int]:
    """Raises InputError for a weight of no type, of a shape that nothing has, or of a length that is no number."""
    where = f"{path}: weight {shown(tensor.name)}"
    kind, shape = _type(tensor.data_type), tuple(tensor.dims)
    if not kind:
        raise InputError(where, f"is of the unknown type {tensor.data_type}", "a type of ONNX")
    if any(n < 0 for n in shape) or prod(shape) >= 1 << 63:
        raise InputError(where, f"has the shape {shown(list(shape))}", "a shape that a file can hold")
    stored = [entry.value for entry in tensor.external_data if entry.key == "length"]
    if not stored:
        return tensor.name, kind, shape, prod(shape) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    if not stored[0].isascii() or not stored[0].isdigit() or len(stored[0]) > MAX_DIGITS:
        raise InputError(where, f"takes {shown(stored[0])} bytes", "a number of bytes")
    return tensor.name, kind, shape, int(stored[0])
