"""Kimi-VL and Kimi-K2.5: DeepSeek-V3 inside a model with vision; the language model only."""

from __future__ import annotations

from dataclasses import replace

from convert.architectures._config import Config
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, LeftOut
from convert.architectures.deepseek2 import GRAPH, V3, latent_text
from convert.json_types import JsonObject

SEEING = "the tower; this file holds the language model"
TOWER = tuple(
    LeftOut("", SEEING, prefix=prefix) for prefix in ("vision_tower.", "multi_modal_projector.", "mm_projector.")
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    root = Config(values)
    inner = dict(root.sub("text_config").values)
    root.finish()
    for key in ("quantization_config", "tie_word_embeddings"):
        if root.has(key):
            inner[key] = values[key]
    spec = latent_text(inner, V3, GRAPH)
    return replace(spec, left_out=(*spec.left_out, *TOWER))


FAMILY = Family(
    name="kimi_vl",
    title="Kimi-VL, Kimi-K2.5",
    classes=("KimiVLForConditionalGeneration", "KimiK25ForConditionalGeneration"),
    text=text,
    renames=(("language_model.", ""),),
)
