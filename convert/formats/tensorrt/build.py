"""One ONNX graph -> one engine, in a process of its own, its log in ours."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from convert import child
from convert.bundle import Artifact
from convert.errors import StageError
from convert.formats.tensorrt.graphs import GraphHeader, Tensor
from convert.formats.tensorrt.worker import Job
from convert.json_types import JsonObject
from convert.progress import Progress

WORKER = "convert.formats.tensorrt.worker"
QUIET = ("Make sure input", "CUDA driver version is insufficient", ": ---")  # of every graph; without a GPU; lines
SHOWN = 8  # lines of a builder's errors worth quoting


@dataclass(frozen=True)
class Built:
    """An engine and what is known of it."""

    artifact: Artifact
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    layers: int


def build(header: GraphHeader, job: Job, progress: Progress) -> Built:
    """The engine of `job`, made from the graph of `header`.

    Raises StageError with every node the parser refuses, the builder's own errors, or how its process ended.
    """
    engine = Path(job.engine)

    def printed(line: str) -> None:
        if not any(words in line for words in QUIET):
            progress.note(f"{engine.name}: {line}")

    with tempfile.TemporaryDirectory(prefix=".build-", dir=engine.parent) as name:
        asked = Path(name) / "job.json"
        asked.write_text(job.to_json(), encoding="utf-8")
        ended = child.run([WORKER, str(asked)], progress, on_line=printed)
    outcome = ended.result
    if ended.code or outcome is None:
        raise _died(header, ended)
    if "refused" in outcome:
        raise _refused(header, outcome["refused"])
    if "failed" in outcome:
        raise _failed(header, outcome["failed"])
    _tell_layers(engine.name, outcome["layers"], progress)
    progress.note(f"{engine.name}: {outcome['size']:,} bytes in {outcome['seconds']} s")
    return Built(
        Artifact("tensorrt", engine, outcome["size"], outcome["sha256"]),
        _named(outcome["inputs"], header.inputs),
        _named(outcome["outputs"], header.outputs),
        len(outcome["layers"]),
    )


def _named(found: Sequence[JsonObject], stated: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The engine's tensors, with the names that the ONNX file has for axes that change."""
    shapes = {tensor["name"]: tensor["shape"] for tensor in found} | {tensor.name: tensor.shape for tensor in stated}
    return tuple(
        Tensor(
            tensor["name"],
            tensor["dtype"],
            tuple(
                name if size == -1 else size for size, name in zip(tensor["shape"], shapes[tensor["name"]], strict=True)
            ),
        )
        for tensor in found
    )


def _tell_layers(engine: str, layers: Sequence[str], progress: Progress) -> None:
    """Put the engine's layers into the log, as TensorRT's inspector writes them."""
    if not layers:
        progress.note(f"{engine}: the builder listed no layers")
        return
    progress.note(f"{engine}: {len(layers)} layers")
    for line in layers:
        progress.note(f"{engine} layer: {line}")


# ---- what goes wrong


def _refused(header: GraphHeader, nodes: Sequence[Mapping[str, str]]) -> StageError:
    """Every node at once: a person changes a model once, not once a node."""
    lines = []
    for node in nodes:
        source = header.sources.get(node["node"], "")
        lines.append(f"\n  {node['op']} {node['node']}" + (f" of {source}" if source else "") + f": {node['reason']}")
    count = "node" if len(nodes) == 1 else "nodes"
    got = f"TensorRT's parser refuses {len(nodes)} {count} of {header.nodes}:{''.join(lines)}"
    return StageError(header.path.name, got + "\n")


def _failed(header: GraphHeader, errors: Sequence[str]) -> StageError:
    said = list(dict.fromkeys(errors))[:SHOWN] or ["it gave no reason; the log has all it said"]
    short = any(word in line for line in said for word in ("OutOfMemory", "workspace"))
    remedy = "give it more with `workspace`" if short else ""
    return StageError(header.path.name, "TensorRT's builder failed: " + "; ".join(said), "", remedy)


def _died(header: GraphHeader, ended: child.Ended) -> StageError:
    remedy = "the machine was most likely short of memory" if ended.code == -9 else "the log has all it said"
    words = (ended.failure or " / ".join(ended.last[-3:]))[-600:]
    return StageError(header.path.name, f"TensorRT's process {ended.how}: {words}", "an engine", remedy)
