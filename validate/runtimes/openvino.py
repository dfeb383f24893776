"""OpenVINO's own folders on OpenVINO, on the CPU in float32; and a second runtime for graphs that claim to be portable.

Its default on a CPU that can is to compute in bfloat16 and to quantize activations: differences of 0.1 that say nothing
about the graph. Both are off here.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from validate.distribution import install_command
from validate.runtimes._openvino_graph import OpenVinoGraph
from validate.runtimes.base import Runtime

if TYPE_CHECKING:
    from validate.runtimes._graph_session import GraphSession


class OpenVino(Runtime):
    """OpenVINO, on the CPU."""

    NAME = "OpenVINO"
    DISTRIBUTIONS = ("openvino",)
    FORMATS = ("openvino",)
    ALSO_RUNS = ("onnx",)

    def available(self) -> str | None:
        """Why OpenVINO cannot run here, or None."""
        missing = [name for name in ("openvino", "transformers") if importlib.util.find_spec(name) is None]
        return f"{' and '.join(missing)} not installed: {install_command('openvino', 'validate')}" if missing else None

    def version(self) -> str:
        """What ran, for the report."""
        return f"openvino {importlib.metadata.version('openvino')}"

    def open(
        self, model: Path, *, projector: Path | None = None, context: int = 512, threads: int | None = None
    ) -> GraphSession:
        """A session on the graph that gives logits; `projector` is the vision graph, else the one beside it."""
        from validate.runtimes._graph_session import GraphSession
        from validate.runtimes._threads import useful_threads, weights_of

        count = threads or useful_threads(*weights_of(model))
        if model.suffix == ".xml":
            from validate.runtimes._openvino_folder import StatefulSession

            return StatefulSession(model, lambda path: OpenVinoGraph(path, count), count)
        return GraphSession(model, lambda path: OpenVinoGraph(path, count), projector, count)


RUNTIME = OpenVino()
