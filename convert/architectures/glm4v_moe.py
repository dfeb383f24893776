"""GLM-4.5V: GLM-4.5's experts with positions on three axes, the tower of GLM-4.1V."""

from __future__ import annotations

from convert.architectures import _qwen_vision as qwen
from convert.architectures import glm4_moe, glm4v
from convert.architectures._decoder import read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.json_types import JsonObject


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = qwen.text_config(values).with_defaults(attention_bias=True)
    glm4v.with_sections(read_decoder(config, glm4_moe.GRAPH))
    config.finish()
    return glm4_moe.text(config.values)


FAMILY = Family(
    name="glm4v_moe",
    title="GLM-4.5V",
    classes=("Glm4vMoeForConditionalGeneration",),
    text=text,
    vision=glm4v.vision,
    vision_prefix=("visual.",),
    renames=qwen.RENAMES,
    graphs="",
)
