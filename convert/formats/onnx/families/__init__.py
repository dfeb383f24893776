"""One file per way to cut a model into graphs; `graphs` in convert/architectures/<family>.py says which is a family's.

A module is called as that word and declares CUT = GraphCut(...); `_decoder.py` is the one graph of a text model.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from convert.architectures import TEXT_GRAPH

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

    from convert.formats.onnx.families._pooling import Embedder
    from convert.formats.onnx.tasks import Task


@dataclass(frozen=True)
class Input:
    """An example of an input, and the names of its axes that change from call to call."""

    example: torch.Tensor
    axes: Mapping[int, str]  # {0: "batch", 1: "sequence"}
    half: bool = False  # follows the graph's 16-bit type where it has one: the key-value cache


@dataclass(frozen=True)
class TracedGraph:
    """One graph: what is traced, and what its inputs and outputs are called."""

    name: str  # the file's stem: model, decoder_model_merged, embed_tokens, vision_encoder
    module: torch.nn.Module  # called with the inputs in order; gives a tuple of outputs
    inputs: Mapping[str, Input]
    outputs: Sequence[str]
    output_axes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)  # where tracing gives no better name
    half_outputs: frozenset[str] = frozenset()  # follow the graph's 16-bit type, as the cache's inputs do
    parameters: Mapping[str, str] = field(default_factory=dict)  # name in the module -> name in the whole model's
    unused: tuple[str, ...] = ()  # beginnings of names of parameters that transformers' own code may not use


@dataclass(frozen=True)
class GraphCut:
    """How a model is cut into graphs. `parts` takes transformers' config object.

    It gives every graph, the one with logits first; their modules hold parameters without memory (see hollow.py).
    """

    parts: Callable[[PretrainedConfig], list[TracedGraph]]
    helpers: tuple[str, ...] = ()  # modules of ours that are shipped beside the graphs: what happens between them
    is_whole: bool = False  # the graphs give all that the model gives: a weight that is in none changes nothing


_LAST: dict[tuple[GraphCut, str], list[TracedGraph]] = {}  # one: who asks what is supported asks again to export it


def parts_of(cut: GraphCut, config: PretrainedConfig) -> list[TracedGraph]:
    """The graphs of a config, as `cut.parts` gives them; the last ones are kept. Raises InputError where it does."""
    key = cut, str(config.to_json_string(use_diff=False))
    if key not in _LAST:
        made = cut.parts(config)
        _LAST.clear()
        _LAST[key] = made
    return _LAST[key]


def names() -> list[str]:
    """Every cut but the plain decoder's."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load(cut: str) -> GraphCut:
    """The cut that a family's file names."""
    found: GraphCut = importlib.import_module(f"{__name__}.{'_decoder' if cut == TEXT_GRAPH else cut}").CUT
    return found


def load_task(task: Task, embedder: Embedder | None) -> GraphCut:
    """The graphs of a whole model: what its task's module cuts it into."""
    parts: Callable[[PretrainedConfig, Task, Embedder | None], list[TracedGraph]]
    parts = importlib.import_module(f"{__name__}.{task.cut}").parts
    return GraphCut(lambda config: parts(config, task, embedder), is_whole=True)
