"""Talkie: norms without weights, behind RoPE too; gains on heads and layers, and the embedding added in each layer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, StatedValues, TensorRule, Transform
from convert.architectures._roles import TensorRole
from convert.architectures._rope import Rotary
from convert.architectures._rows import B
from convert.json_types import JsonObject

EPSILON = float(np.finfo(np.float32).eps)  # torch's own where rms_norm is given none
GRAPH = Graph("talkie", default_epsilon=EPSILON, rotary=Rotary(()))
L = "model.blocks.{i}"
ROWS: tuple[TensorRule, ...] = (
    ("model.embed.weight", "token_embd.weight", ("vocab", "hidden")),
    (f"{L}.attn.attn_query.weight", f"{B}.attn_q.weight", ("q", "hidden"), "q"),
    (f"{L}.attn.attn_key.weight", f"{B}.attn_k.weight", ("kv", "hidden"), "k"),
    (f"{L}.attn.attn_value.weight", f"{B}.attn_v.weight", ("kv", "hidden")),
    (f"{L}.attn.attn_resid.weight", f"{B}.attn_output.weight", ("hidden", "q")),
    (f"{L}.attn.head_gain.head_g", f"{B}.attn_q_norm.weight", ("heads",), "gain"),
    (f"{L}.mlp.mlp_gate.weight", f"{B}.ffn_gate.weight", ("ffn", "hidden")),
    (f"{L}.mlp.mlp_linear.weight", f"{B}.ffn_up.weight", ("ffn", "hidden")),
    (f"{L}.mlp.mlp_resid.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
    (f"{L}.attn_gain.a_g", f"{B}.attn_output.scale", ("one",), TensorRole.SCALE),
    (f"{L}.mlp_gain.a_g", f"{B}.ffn_down.scale", ("one",), TensorRole.SCALE),
    (f"{L}.embed_skip.a_g", f"{B}.layer_output_scale.weight", ("one",)),
)
LOGITS = StatedValues("talkie.logit_scale", ("lm_head_gain.w_g",), single=True)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    # whatever the config says of it, the code gives its norms none
    config = Config({**values, GRAPH.epsilon: EPSILON})
    decoder = read_decoder(config, GRAPH)
    config.require("tie_word_embeddings", False, "llama.cpp's talkie graph wants a head of its own")
    transforms = dict(_turned_back(decoder))
    transforms["gain"] = Transform(lambda gain: gain.reshape(-1, 1), resized=lambda shape: (*shape, 1))
    sized = decoder.having(heads=decoder.heads, one=1)
    return decoder_spec(sized, ROWS, head_size_fields(decoder), transforms, Extra(stated=[LOGITS]))


def _turned_back(decoder: Decoder) -> Iterator[tuple[str, Transform]]:
    """Its heads turn the other way round: so do llama.cpp's where the sign of their second halves changes."""
    half = decoder.head_dim // 2
    signs = np.repeat(np.array([1, -1], np.float32), half)
    for word, heads in (("q", decoder.heads), ("k", decoder.kv_heads)):
        yield word, Transform(row_factors=np.tile(signs, heads))


FAMILY = Family(
    name="talkie",
    title="Talkie",
    classes=("TalkieForCausalLM",),
    text=text,
    graphs="",  # transformers has no class of its own for it
)
