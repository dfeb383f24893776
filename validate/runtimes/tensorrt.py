"""TensorRT engines on a CUDA device, through torch's CUDA tensors.

An engine is for one version of one TensorRT and for some GPUs; engine.json, beside it, is asked before anything is
loaded, so that a machine that cannot run it says why.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from validate.distribution import install_command
from validate.errors import NotOnThisMachine, RuntimeFailure
from validate.json_types import JsonObject
from validate.runtimes.base import Runtime

if TYPE_CHECKING:
    from validate.runtimes._graph_session import GraphSession


SIDECAR = "engine.json"
SCHEMA_VERSION = 1
MODULES = {"tensorrt": "TensorRT", "tensorrt_rtx_bindings": "TensorRT for RTX"}
REBUILD = "rebuild it from the graphs in onnx/"


@functools.cache
def _module() -> ModuleType | None:
    """The TensorRT there is: what is called tensorrt on PyPI may be a stub that only fetches it."""
    for name in MODULES:
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError, RuntimeError):
            continue
        if hasattr(module, "Runtime"):
            return module
    return None


# ---- engine.json


def read_sidecar(folder: Path) -> JsonObject:
    """What engine.json says. Raises RuntimeFailure where it is not there or none of ours."""
    path = folder / SIDECAR
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        if said["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version {said['schema_version']}, wanted {SCHEMA_VERSION}")
        for name in ("flavour", "version", "compute_capabilities", "options", "engines"):
            said[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RuntimeFailure(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    return dict(said)


def _entry(said: JsonObject, path: Path) -> JsonObject:
    for entry in said["engines"]:
        if entry["file"] == path.name:
            return dict(entry)
    raise RuntimeFailure(f"{SIDECAR} says nothing of {path.name}")


def check(said: JsonObject, model: Path, trt: ModuleType, capability: str) -> None:
    """Raise NotOnThisMachine, before the engine is loaded, where it cannot run; TensorRT has the last word on a GPU."""
    flavour = MODULES[trt.__name__]
    if said["flavour"] != flavour:
        got = f"{model.name} was built by {said['flavour']}, here is {flavour}"
        raise NotOnThisMachine(f"{got}: install the former, or {REBUILD}")
    newer = said["options"].get("version_compatible") and _number(trt.__version__) >= _number(said["version"])
    if said["version"] != trt.__version__ and not newer:
        got = f"{model.name} was built by {flavour} {said['version']}, here is {trt.__version__}"
        raise NotOnThisMachine(f"{got}: install the former, or {REBUILD}")
    if capability in said["compute_capabilities"]:
        return
    answer = validity(trt, model)
    if answer != "VALID":
        built = ", ".join(said["compute_capabilities"])
        got = f"{model.name} was built for compute capabilities {built}, this GPU has {capability}"
        raise NotOnThisMachine(got + (f"; TensorRT says: {answer}" if answer else ""))


def validity(trt: ModuleType, engine: Path) -> str:
    """TensorRT's answer from an engine's first bytes: VALID, or what is wrong; "" where it has no such question."""
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    try:
        size, ask = runtime.engine_header_size, runtime.get_engine_validity
    except AttributeError:  # TensorRT for a data centre, and older ones
        return ""
    with engine.open("rb") as file:
        state, reasons = ask(file.read(size))
    word = str(state).rpartition(".")[2]
    if word in ("VALID", "SUBOPTIMAL"):
        return "VALID"
    found = [name for name, flag in trt.EngineInvalidityDiagnostics.__members__.items() if int(reasons) & int(flag)]
    return f"{word} ({', '.join(found)})" if found else word


def _number(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())


class TensorRt(Runtime):
    """TensorRT or TensorRT for RTX, whichever is installed."""

    NAME = "TensorRT"
    DISTRIBUTIONS = ("tensorrt", "tensorrt_rtx_cu12_bindings")
    FORMATS = ("tensorrt",)

    def available(self) -> str | None:
        """Why TensorRT cannot run here and what to install, or None."""
        missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
        if missing and _module() is None:
            return f"TensorRT and {' and '.join(missing)} not installed: {install_command('onnx', 'tensorrt')}"
        if missing:
            return f"{' and '.join(missing)} not installed: {install_command('onnx')}"
        if _module() is None:
            return f"TensorRT is not installed: {install_command('tensorrt')}, or TensorRT from its vendor"
        return None

    def lacks(self) -> str | None:
        """What this machine lacks for an engine to run, or None."""
        import torch

        if torch.cuda.is_available():
            return None
        if torch.version.cuda is None and Path("/proc/driver/nvidia/version").exists():
            return "torch is built without CUDA: install its CUDA build"
        return "no CUDA device"

    def version(self) -> str:
        """What ran, for the report."""
        trt = _module()
        if trt is None:
            return self.NAME
        return f"{MODULES[trt.__name__]} {trt.__version__}, torch {importlib.metadata.version('torch')}"

    def open(
        self, model: Path, *, projector: Path | None = None, context: int = 512, threads: int | None = None
    ) -> GraphSession:
        """A session on the engine that gives logits; `projector` is the vision engine, the one beside it when left out.

        Raises NotOnThisMachine where engine.json says that this TensorRT or this GPU is another than it was built for.
        """
        import torch

        from validate.runtimes._graph_session import GraphSession
        from validate.runtimes._tensorrt_engine import EngineGraph

        del context, threads
        trt = _module()
        if trt is None:
            raise RuntimeFailure(str(self.available()))
        said = read_sidecar(model.parent)
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        check(said, model, trt, capability)
        return GraphSession(model, lambda path: EngineGraph(path, _entry(said, path), trt, torch), projector)


RUNTIME = TensorRt()
