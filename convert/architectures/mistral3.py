"""Ministral 3, and the text of Mistral Small 3: Llama's layers, queries that grow with their position in long texts."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS
from convert.architectures.llama import side_by_side
from convert.gguf_field import Field
from convert.json_types import JsonObject

# words of YaRN that only this graph reads
OWN = ("beta_fast", "beta_slow", "mscale", "mscale_all_dim", "max_position_embeddings", "llama_4_scaling_beta")
GRAPH = Graph("mistral3", default_epsilon=1e-5, rotary=Rotary(("yarn",), own=OWN))
SCALED = "ministral3"  # the model_type of those whose queries grow


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    scaled = values.get("model_type") == SCALED
    decoder = read_decoder(config.with_defaults(head_dim=128) if scaled else config, GRAPH)
    for key in ("attention_bias", "mlp_bias"):
        config.require(key, False, "transformers' model has no biases")
    fields = [
        *head_size_fields(decoder),
        Field.uint32("mistral3.vocab_size", decoder.vocab),
        Field.uint32("mistral3.rope.dimension_count", decoder.head_dim),
        *(_scale_fields(decoder) if scaled else ()),
    ]
    return decoder_spec(decoder, (*ENDS, *NORMS, *ATTENTION, *MLP), fields, side_by_side(decoder))


def _scale_fields(decoder: Decoder) -> list[Field]:
    """What YaRN and the growth of queries are made of (transformers, get_llama_4_attn_scale)."""
    assert decoder.rope is not None
    kind, values = decoder.rope.kind, decoder.rope.values
    if kind != "yarn":
        values.complain("rope_type", kind, "yarn", "the queries of this model grow by YaRN's original context")
    for key, wanted in (("mscale", 1.0), ("attention_factor", None)):
        values.require(key, wanted, "llama.cpp's mistral3 graph has no other")
    scaling = "mistral3.rope.scaling"
    return [
        Field.float32(f"{scaling}.yarn_log_multiplier", values.number("mscale_all_dim")),
        Field.float32("mistral3.attention.temperature_scale", values.number("llama_4_scaling_beta")),
        Field.float32(f"{scaling}.yarn_beta_fast", values.number("beta_fast", 32.0)),
        Field.float32(f"{scaling}.yarn_beta_slow", values.number("beta_slow", 1.0)),
    ]


FAMILY = Family(
    name="mistral3",
    title="Ministral 3",
    classes=("Ministral3ForCausalLM",),
    text=text,
    tested=("onnx",),
)
