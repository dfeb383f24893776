"""ONNX graphs on ONNX Runtime, on the CPU. No library of custom operators is ever loaded.

    with open(Path("model.onnx")) as session: ...

gives the Session of `_graph_session.py`, which also runs a vision-language model's three graphs together.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from validate.distribution import install_command
from validate.errors import NotOnThisMachine, RuntimeFailure
from validate.runtimes.base import Runtime

if TYPE_CHECKING:
    from onnxruntime import NodeArg

    from validate.runtimes._graph_encoder import GraphEncoder
    from validate.runtimes._graph_session import GraphSession, Port


ERRORS_ONLY = 3
WORDS = 400  # characters of an error worth quoting
_TYPES = {"float": "float32", "double": "float64"}  # where ONNX Runtime's word is not numpy's
_BEFORE = re.compile(r".*\[ONNXRuntimeError\] : \d+ : \w+ : |^\S+\.(cc|h):\d+ \S+ ", re.DOTALL)  # codes, its own files


class OnnxGraph:
    """A graph in ONNX Runtime; see Graph."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        self._name = path.name
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = ERRORS_ONLY
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common class
            raise _failure(error, f"could not load {path.name}") from error
        self.inputs = {port.name: _port(port) for port in self._session.get_inputs()}
        self.outputs = {port.name: _port(port) for port in self._session.get_outputs()}

    def run(self, feeds: Mapping[str, np.ndarray], wanted: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        names = list(self.outputs if wanted is None else wanted)
        try:
            return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))
        except Exception as error:
            raise _failure(error, f"could not run {self._name}") from error

    def close(self) -> None:
        del self._session


def _failure(error: Exception, what: str) -> RuntimeFailure:
    """The error in ONNX Runtime's own words; a kernel that it does not have is this machine's lack, not the model's."""
    words = " ".join(_BEFORE.sub("", _BEFORE.sub("", str(error))).split())[:WORDS]
    if type(error).__name__ == "NotImplemented":
        return NotOnThisMachine(f"ONNX Runtime has no CPU kernel for this graph: {words}")
    return RuntimeFailure(f"ONNX Runtime {what}: {words}")


def _port(port: NodeArg) -> Port:
    from validate.runtimes._graph_session import Port, numpy_type

    word = str(port.type).removeprefix("tensor(").removesuffix(")")
    return Port(numpy_type(_TYPES.get(word, word)), tuple(port.shape))


class OnnxRuntime(Runtime):
    """ONNX Runtime, on the CPU."""

    NAME = "ONNX Runtime"
    DISTRIBUTIONS = ("onnxruntime",)
    FORMATS = ("onnx",)

    def available(self) -> str | None:
        """Why ONNX Runtime cannot run here, or None."""
        missing = [name for name in ("onnxruntime", "transformers") if importlib.util.find_spec(name) is None]
        return f"{' and '.join(missing)} not installed: {install_command('onnx')}" if missing else None

    def version(self) -> str:
        """What ran, for the report."""
        return f"onnxruntime {importlib.metadata.version('onnxruntime')}"

    def open(
        self, model: Path, *, projector: Path | None = None, context: int = 512, threads: int | None = None
    ) -> GraphSession | GraphEncoder:
        """A session on the graph that gives logits or vectors; `projector` is the vision graph, else the one beside."""
        from validate.runtimes._graph_encoder import GraphEncoder, is_encoder
        from validate.runtimes._graph_session import GraphSession
        from validate.runtimes._threads import useful_threads, weights_of

        count = threads or useful_threads(*weights_of(model))
        graph = OnnxGraph(model, count)
        if is_encoder(graph):
            return GraphEncoder(model, graph, count)
        return GraphSession(model, lambda path: graph if path == model else OnnxGraph(path, count), projector, count)


RUNTIME = OnnxRuntime()
