"""What a family file declares: FAMILY = Family(...), all that others ask of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from convert.architectures._graph_spec import GraphSpec, SourceTensor
from convert.architectures._roles import TensorRole

Values = Mapping[str, Any]

TEXT_GRAPH = "decoder"
"""The one graph of a text model: token ids and the cache in, logits and the longer cache out."""


@dataclass(frozen=True)
class Family:
    """Models whose tensors one table describes."""

    name: str  # of the file
    title: str  # what people call it
    classes: tuple[str, ...]  # in config.json's `architectures`
    text: Callable[[Values], GraphSpec]  # the language model's GGUF file; raises PlanError for a config it cannot take
    vision: Callable[[Values, Values], GraphSpec] | None = None  # (config, preprocessor) -> the mmproj file
    vision_prefix: tuple[str, ...] = ()  # how the names of its vision tensors start
    renames: tuple[tuple[str, str], ...] = ()  # other writers' beginnings of tensor names -> those of its tables
    graphs: str = ""  # how it is cut into graphs for other runtimes: a word of ours; see `graph_cut`

    @property
    def has_vision(self) -> bool:
        """Whether its models take images."""
        return self.vision is not None

    @property
    def graph_cut(self) -> str:
        """How its models are cut into graphs (ONNX, TensorRT): "decoder", a name of its own; empty: not known."""
        return self.graphs or ("" if self.has_vision else TEXT_GRAPH)

    def own_name(self, name: str) -> str:
        """A checkpoint tensor's name as the family's tables have it: the first beginning that applies is replaced."""
        return next((new + name.removeprefix(old) for old, new in self.renames if name.startswith(old)), name)

    def is_vision(self, name: str) -> bool:
        """Whether the checkpoint tensor called so is part of a tower or projector, used or not."""
        return bool(self.vision_prefix) and self.own_name(name).startswith(self.vision_prefix)

    def roles(self, tensors: Mapping[str, SourceTensor], names: Mapping[str, Any]) -> dict[str, TensorRole]:
        """Checkpoint tensor -> role, of those of `names` that the table has."""
        raise NotImplementedError
