"""Solar Open: GLM-4.5's layers, whole heads turning, experts in every layer."""

from __future__ import annotations

from convert.architectures import glm4_moe
from convert.architectures._config import Config
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.json_types import JsonObject

DEFAULTS: JsonObject = {"head_dim": 128, "rope_theta": 1e6, "partial_rotary_factor": 1.0, "first_k_dense_replace": 0}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(**DEFAULTS)
    config.require("first_k_dense_replace", 0, "transformers has experts in every layer of it")
    config.require("use_qk_norm", False, "transformers has no such norms in it")
    config.finish()
    # transformers writes no width of a dense layer; there is none
    return glm4_moe.text(config.with_defaults(intermediate_size=values.get("moe_intermediate_size")).values)


FAMILY = Family(
    name="solar_open",
    title="Solar Open",
    classes=("SolarOpenForCausalLM",),
    text=text,
)
