"""Which models OpenVINO GenAI and optimum-intel read from a folder, and the traced graphs that they are made of.

    a text model          openvino_model              input_ids, attention_mask, position_ids, beam_idx -> logits
    Qwen2.5-VL            openvino_language_model     inputs_embeds instead of input_ids
                          openvino_text_embeddings_model            input -> inputs_embeds
                          openvino_vision_embeddings_model          hidden_states (patches) -> last_hidden_state
                          openvino_vision_embeddings_merger_model   the tower's blocks, see qwen2_5_vl.py

Source: optimum-intel, optimum/exporters/openvino; openvino.genai, src/cpp/src/visual_language.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from convert.architectures import TEXT_GRAPH
from convert.errors import ConvertError, InputError
from convert.formats.base import Support

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from convert.formats.onnx.families import GraphCut, Input, TracedGraph
    from convert.source.checkpoint import Checkpoint

TEXT, LANGUAGE = "openvino_model", "openvino_language_model"
EMBEDDER = "openvino_text_embeddings_model"
VISION = ("openvino_vision_embeddings_model", "openvino_vision_embeddings_merger_model")
WITH_IMAGES = ("qwen2_5_vl",)
"""Cuts of the ONNX families whose vision models are known to OpenVINO GenAI and to us."""


@dataclass(frozen=True)
class Part:
    """One model of the folder."""

    file: str  # without its ending
    traced: TracedGraph
    is_vision: bool = False

    @property
    def decodes(self) -> bool:
        """Whether it holds the key-value cache."""
        return "logits" in self.traced.outputs


def check(cut: str) -> None:
    """Raise InputError for a family whose graphs are cut otherwise than OpenVINO GenAI reads them."""
    if cut not in (TEXT_GRAPH, *WITH_IMAGES):
        got = f"models cut as {cut} have no OpenVINO models that are known here"
        raise InputError("openvino", got, f"a text model, or {', '.join(WITH_IMAGES)}", "use the onnx stage")


def supports(checkpoint: Checkpoint) -> Support:
    """Yes for what ONNX graphs are made of, where OpenVINO GenAI has a pipeline for it."""
    from convert.formats.onnx.export import misfits
    from convert.formats.onnx.supports import read_kind

    try:
        check(read_kind(checkpoint.folder, checkpoint.tensors).cut)
        return Support(tuple(map(str, misfits(checkpoint))))
    except ConvertError as error:
        return Support(tuple(map(str, error.problems)))


def names(cut: str) -> tuple[str, ...]:
    """The models of a folder, the one with logits first."""
    return (TEXT,) if cut == TEXT_GRAPH else (LANGUAGE, EMBEDDER, *VISION)


def parts(config: PretrainedConfig, cut: GraphCut, name: str) -> list[Part]:
    """The models of the family's cut `name`, the one with logits first. Raises InputError for an unknown cut."""
    check(name)
    graphs = cut.parts(config)
    decoder = next(graph for graph in graphs if "logits" in graph.outputs)
    if name == TEXT_GRAPH:
        return [Part(TEXT, decoder)]
    from convert.formats.openvino import qwen2_5_vl

    embedder = next(graph for graph in graphs if tuple(graph.inputs) == ("input_ids",))
    table = replace(embedder, inputs=_renamed(embedder.inputs, "input"))
    seen = zip(VISION, qwen2_5_vl.vision(config), strict=True)
    return [Part(LANGUAGE, decoder), Part(EMBEDDER, table), *(Part(file, graph, True) for file, graph in seen)]


def _renamed(inputs: Mapping[str, Input], name: str) -> Mapping[str, Input]:
    (given,) = inputs.values()
    return {name: given}
