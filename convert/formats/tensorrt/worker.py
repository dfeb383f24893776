"""The process that builds one engine, `convert.child.run(["convert.formats.tensorrt.worker", "JOB.json"])`.

It prints the builder's log; its result is what the parser refused, why the builder failed, or what was made.
The builder is native code; it may abort, and it does not handle Ctrl-C.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from convert import messages
from convert.files import HashedFile
from convert.json_types import JsonDict, JsonObject

if TYPE_CHECKING:
    from tensorrt import Builder, IBuilderConfig, ILogger, INetworkDefinition, ITensor, ParserError

LAYER_LISTS = ("Layers:", "Engine Layer Information:")  # how the builder's verbose log begins to list an engine
PARTS_OF_A_LIST = ("\n\nI/O Tensors:", "\nBindings:")  # what follows the layers
TYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}  # else numpy's word in capitals


@dataclass(frozen=True)
class Job:
    """One engine: from which graph, for which shapes, with which of TensorRT's options."""

    module: str
    graph: str
    engine: str
    profiles: tuple[JsonObject, ...]  # input -> smallest, usual, largest shape
    capabilities: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()  # of TensorRT's BuilderFlag
    workspace: int | None = None
    timing_cache: str | None = None
    new_timing_cache: str | None = None

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))


def main(job_path: str) -> None:
    """Build, and report how it went."""
    job = Job(**json.loads(Path(job_path).read_text(encoding="utf-8")))
    messages.parent().result(build(job))


def build(job: Job) -> JsonDict:
    """The outcome: {"refused": [...]}, {"failed": [...]} or what is known of the new engine."""
    trt = importlib.import_module(job.module)
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(job.graph):
        return {"refused": [_refusal(parser.get_error(i)) for i in range(parser.num_errors)]}
    config = _config(trt, builder, network, job)
    started = time.monotonic()
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        return {"failed": logger.errors}
    with HashedFile(Path(job.engine)) as file:
        file.write(serialized)
    _keep_timing_cache(config, job)
    artifact = file.artifact("engine")
    return {
        "size": artifact.size,
        "sha256": artifact.sha256,
        "seconds": round(time.monotonic() - started, 2),
        "inputs": [_tensor(network.get_input(i)) for i in range(network.num_inputs)],
        "outputs": [_tensor(network.get_output(i)) for i in range(network.num_outputs)],
        "layers": logger.layers,
    }


def _logger(trt: Any) -> ILogger:
    """A logger that prints all but the verbose, and keeps the errors and the layer list."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.layers: list[str] = []

        def log(self, severity: object, text: str) -> None:
            if text.startswith(LAYER_LISTS):
                self.layers += _layers(text)
            if severity == trt.ILogger.VERBOSE:
                return
            word = str(severity).rpartition(".")[2].lower()
            if word.endswith("error") and not _missing_device(text):
                self.errors.append(text)
            print(f"{word}: {' '.join(text.split())}", flush=True)

    return Logger()


def _missing_device(text: str) -> bool:
    """An error that only says there is no GPU: the builder looks for one on its way, and does without."""
    return "CUDA driver version is insufficient" in text and "buildSerializedNetwork" not in text


def _layers(text: str) -> list[str]:
    """The layers of an engine, one a line: this is what its inspector prints, which needs a GPU to ask it."""
    for end in PARTS_OF_A_LIST:
        text = text.partition(end)[0]
    return [line.strip() for line in text.splitlines()[1:] if line.strip()]


def _strongly_typed(trt: ModuleType) -> int:
    """Types are the graph's: the builder may not lower them. From TensorRT 11 on there is nothing else."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _config(trt: ModuleType, builder: Builder, network: INetworkDefinition, job: Job) -> IBuilderConfig:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # layers are listed with names, types and shapes
    config.clear_flag(trt.BuilderFlag.TF32)  # on unless somebody says so: float32 products of 10-bit mantissas
    for flag in job.flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    if job.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace)
    if job.capabilities:
        config.num_compute_capabilities = len(job.capabilities)
        for i, capability in enumerate(job.capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}"), i)
    if job.new_timing_cache:
        known = Path(job.timing_cache).read_bytes() if job.timing_cache else b""
        config.set_timing_cache(config.create_timing_cache(known), False)
    for ranges in job.profiles:
        profile = builder.create_optimization_profile()
        for i in range(network.num_inputs):
            name = network.get_input(i).name
            profile.set_shape(name, *map(tuple, ranges[name]))
        config.add_optimization_profile(profile)
    return config


def _keep_timing_cache(config: IBuilderConfig, job: Job) -> None:
    if job.new_timing_cache:
        Path(job.new_timing_cache).write_bytes(bytes(config.get_timing_cache().serialize()))


def _refusal(error: ParserError) -> dict[str, str]:
    """A node the parser does not take: its name, its operator, and the parser's reason."""
    code = str(error.code()).rpartition(".")[2]
    said = error.desc()
    if said in ("", "false"):  # the parser's check of an operator that it has no importer for
        said = "it has no such operator" if code == "UNSUPPORTED_NODE" else code
    return {"node": error.node_name(), "op": error.node_operator(), "reason": said}


def _tensor(tensor: ITensor) -> JsonDict:
    word = str(tensor.dtype).rpartition(".")[2]
    return {"name": tensor.name, "dtype": TYPES.get(word, word.lower()), "shape": list(tensor.shape)}


if __name__ == "__main__":
    main(*sys.argv[1:])
