"""A Triton model repository: a folder a model, config.pbtxt, and a folder of its version.

    Model-int8-decoder/config.pbtxt            what goes in and comes out
    Model-int8-decoder/1/model.onnx            the graph, and beside it the data it names

Sources: triton-inference-server's docs/user_guide/model_repository.md and model_configuration.md, and the schema,
model_config.proto of its common repository, which the tests parse it with.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convert.bundle import Artifact
from convert.errors import PlanError, Problem
from convert.formats.base import Usage
from convert.json_types import JsonObject
from convert.release.repository import Place, Repository
from convert.release.rows import Made, Row

if TYPE_CHECKING:
    from convert.release_options import Backend, ReleaseOptions

SUFFIX = "-Triton"
CONFIG, VERSION = "config.pbtxt", "1"
MOUNT = "/models"  # where Triton's containers are given a repository
USAGE = (
    Usage(
        "Triton Inference Server",
        "docker run --rm --gpus all -v $PWD:/models nvcr.io/nvidia/tritonserver:26.10-py3 \\\n"
        "  tritonserver --model-repository=/models",
    ),
)
# onnx.TensorProto's number and engine.json's word -> Triton's word (model_config.proto, DataType)
ONNX_TYPES = {
    **{1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64", 8: "STRING", 9: "BOOL"},
    **{10: "FP16", 11: "FP64", 12: "UINT32", 13: "UINT64", 16: "BF16"},
}
ENGINE_TYPES = {
    **{"float32": "FP32", "float16": "FP16", "bfloat16": "BF16", "int64": "INT64", "int32": "INT32", "int8": "INT8"},
    **{"bool": "BOOL", "uint8": "UINT8"},
}


@dataclass(frozen=True)
class Value:
    """An input or an output."""

    name: str
    type: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Config:
    """config.pbtxt."""

    name: str
    backend: str
    inputs: Sequence[Value] = ()
    outputs: Sequence[Value] = ()
    filename: str = ""
    platform: str = ""

    def __str__(self) -> str:
        lines = [f"name: {_quoted(self.name)}"]
        lines += [f"platform: {_quoted(self.platform)}"] if self.platform else [f"backend: {_quoted(self.backend)}"]
        lines += ["max_batch_size: 0"]  # the first dimension of every value is one of its own
        lines += [f"default_model_filename: {_quoted(self.filename)}"] if self.filename else []
        for word, values in (("input", self.inputs), ("output", self.outputs)):
            for value in values:
                dims = ", ".join(map(str, value.dims))
                lines.append(f"{word} {{ name: {_quoted(value.name)} data_type: TYPE_{value.type} dims: [ {dims} ] }}")
        kind = "KIND_MODEL" if self.backend == "vllm" else "KIND_AUTO"
        lines.append(f"instance_group {{ count: 1 kind: {kind} }}")
        return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """As protobuf's text format has strings."""
    return json.dumps(text)


def repository(made: Made, rows: Sequence[Row], options: ReleaseOptions) -> Repository | None:
    """All that these backends can serve, as one repository; None where none is asked for."""
    if not options.triton:
        return None
    files: dict[str, Artifact] = {}
    texts: dict[str, str] = {}
    places = []
    model = options.name or made.source.model.name
    for backend in options.triton:
        for row in (row for row in rows if _serves(backend, row)):
            name = f"{model}-{row.output.weights.type}" + ("" if len(options.triton) == 1 else f"-{backend}")
            checkpoint = backend == "vllm"
            added = _vllm(f"{name}-{row.output.stage}", row) if checkpoint else _graphs(name, backend, row)
            files |= added.files
            texts |= added.texts
            places.append(Place(row, added.main, tuple(added.files)))
    if not places:
        got = f"triton: {', '.join(options.triton)}, and no published output is for them"
        raise PlanError(Problem(made.recipe.where("release", "triton"), got, "ONNX graphs, engines or checkpoints"))
    return Repository(f"{model}{SUFFIX}", "triton", tuple(places), dict(sorted(files.items())), USAGE, (), texts)


@dataclass(frozen=True)
class _Added:
    main: str
    files: dict[str, Artifact]
    texts: dict[str, str]


def _serves(backend: Backend, row: Row) -> bool:
    format_ = row.output.weights.format
    if backend in ("onnxruntime", "openvino"):
        return format_ == "onnx"
    return format_ == "tensorrt" if backend == "tensorrt" else format_ in ("gptq", "awq", "fp8", "compressed")


def _graphs(name: str, backend: Backend, row: Row) -> _Added:
    """A model for each graph of an output, with the data that its graph names beside it."""
    main = "model.plan" if backend == "tensorrt" else "model.onnx"
    files: dict[str, Artifact] = {}
    texts: dict[str, str] = {}
    graphs = [file for file in row.output.files if file.path.suffix in (".onnx", ".engine")]
    for graph in graphs:
        part = name if len(graphs) == 1 else f"{name}-{_part(graph.path)}"
        files[f"{part}/{VERSION}/{main}"] = graph
        for data in _data(graph.path, row.output.files):
            files[f"{part}/{VERSION}/{data.path.name}"] = data
        inputs, outputs = _values(graph.path)
        platform = "tensorrt_plan" if backend == "tensorrt" else ""
        filename = main if backend == "openvino" else ""
        texts[f"{part}/{CONFIG}"] = str(Config(part, backend, inputs, outputs, filename, platform))
    return _Added(next(iter(files)), files, texts)


def _part(path: Path) -> str:
    """What a graph is of the model, without the words for its precision."""
    words = {"embed_tokens": "embed", "vision_encoder": "vision", "decoder_model_merged": "decoder", "model": "decoder"}
    return next((short for word, short in words.items() if path.stem.startswith(word)), path.stem)


def _data(graph: Path, files: Iterable[Artifact]) -> Iterator[Artifact]:
    """The files of external data that a graph names; an engine has none."""
    if graph.suffix != ".onnx":
        return
    import onnx

    model = onnx.load(str(graph), load_external_data=False)
    named = {
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    yield from {file.path.name: file for file in files if file.path.name in named}.values()


def _values(path: Path) -> tuple[list[Value], list[Value]]:
    """What goes into a graph and comes out."""
    if path.suffix == ".engine":
        said = json.loads(path.with_name("engine.json").read_text(encoding="utf-8"))
        engine = next(entry for entry in said["engines"] if entry["file"] == path.name)
        return [_of_engine(v) for v in engine["inputs"]], [_of_engine(v) for v in engine["outputs"]]
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    ins, outs = ([_of_graph(v) for v in values if v.name not in stored] for values in (graph.input, graph.output))
    return ins, outs


def _of_engine(words: JsonObject) -> Value:
    dims = tuple(size if isinstance(size, int) else -1 for size in words["shape"])  # else the name of one that varies
    return Value(words["name"], ENGINE_TYPES[words["dtype"]], dims or (1,))


def _of_graph(value: object) -> Value:
    """By onnx.ValueInfoProto: a dimension without a number is any."""
    from onnx import ValueInfoProto

    assert isinstance(value, ValueInfoProto)
    tensor = value.type.tensor_type
    dims = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
    return Value(value.name, ONNX_TYPES[tensor.elem_type], dims or (1,))


def _vllm(name: str, row: Row) -> _Added:
    """model.json names the checkpoint for vLLM: its files lie in the version's folder."""
    home = row.output.weights.path.parent
    files = {}
    for artifact in (*row.output.files, *(a for _, a in row.bundle.artifacts() if a.path.is_relative_to(home))):
        files[f"{name}/{VERSION}/checkpoint/{artifact.path.relative_to(home).as_posix()}"] = artifact
    engine = {"model": f"{MOUNT}/{name}/{VERSION}/checkpoint", "gpu_memory_utilization": 0.9}
    texts = {
        f"{name}/{CONFIG}": str(Config(name, "vllm")),
        f"{name}/{VERSION}/model.json": json.dumps(engine, indent=2) + "\n",
    }
    return _Added(next(iter(files)), files, texts)
