"""Nanbeige 4.2: Llama's layers, gone through more than once."""

from __future__ import annotations

from convert.architectures._config import MAX_LAYERS, Config
from convert.architectures._decoder import Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS
from convert.architectures.llama import side_by_side
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("nanbeige", default_epsilon=1e-5, rotary=Rotary(("linear", "yarn", "llama3")))


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    for key in ("attention_bias", "mlp_bias"):
        config.require(key, False, "llama.cpp's nanbeige graph loads no biases")
    loops = config.size("num_loops", 1)
    if loops * decoder.layers > MAX_LAYERS:
        config.complain("num_loops", loops, f"at most {MAX_LAYERS // decoder.layers}", "llama.cpp has no more layers")
    fields = [
        Field.uint32("nanbeige.vocab_size", decoder.vocab),
        Field.uint32("nanbeige.rope.dimension_count", decoder.head_dim),
        Field.uint32("nanbeige.num_loops", loops),
        Field.boolean("nanbeige.skip_loop_final_norm", config.flag("skip_loop_final_norm")),
        *(head_size_fields(decoder) if config.has("head_dim") else ()),
    ]
    return decoder_spec(decoder, (*ENDS, *NORMS, *ATTENTION, *MLP), fields, side_by_side(decoder))


FAMILY = Family(
    name="nanbeige",
    title="Nanbeige 4.2",
    classes=("NanbeigeForCausalLM",),
    text=text,
    graphs="",  # transformers has no class of its own for it
)
