"""MiniCPM 1, 2 and 4: Llama's layers with factors on the embedding, on what layers add, and on the logits."""

from __future__ import annotations

import math
from collections.abc import Iterator

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._rope import Rotary, longrope_notes
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS
from convert.architectures.llama import side_by_side
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("minicpm", default_epsilon=1e-6, rotary=Rotary(("linear", "longrope")), square=True, tied=True)
SPARSE = "the source may attend to chosen blocks of long texts only, llama.cpp attends to all of them"


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    config.require("num_experts", 0, "llama.cpp's minicpm graph computes no experts of such a model")
    notes = [*longrope_notes(decoder.rope), *([SPARSE] if config.has("sparse_config") else [])]
    rows = (*ENDS, *NORMS, *ATTENTION, *MLP)
    return decoder_spec(decoder, rows, _factors(decoder), side_by_side(decoder), Extra(notes=notes))


def _factors(decoder: Decoder) -> Iterator[Field]:
    config = decoder.config
    yield Field.float32("minicpm.embedding_scale", config.number("scale_emb", 1.0))
    yield Field.float32("minicpm.residual_scale", config.number("scale_depth", 1.0) / math.sqrt(decoder.layers))
    yield Field.float32("minicpm.logit_scale", decoder.hidden / config.number("dim_model_base", 1.0))


FAMILY = Family(
    name="minicpm",
    title="MiniCPM 1, 2 and 4",
    classes=("MiniCPMForCausalLM",),
    text=text,
    graphs="",  # transformers has no class of its own for it
)
