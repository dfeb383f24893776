"""Qwen 1: query, key and value in one matrix with a bias; its MLP is half as wide as the config says."""

from __future__ import annotations

from convert.architectures._config import MAX_CONTEXT, Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rope import Rotary
from convert.architectures._rows import B
from convert.json_types import JsonObject

GRAPH = Graph(
    "qwen",
    epsilon="layer_norm_epsilon",
    default_epsilon=1e-6,
    rotary=Rotary(()),
    square=True,
    grouped=False,
)
SPELLINGS = {"head_dim": "kv_channels", "rope_theta": "rotary_emb_base"}
L = "transformer.h.{i}"
ROWS: tuple[TensorRule, ...] = (
    ("transformer.wte.weight", "token_embd.weight", ("vocab", "hidden")),
    ("transformer.ln_f.weight", "output_norm.weight", ("hidden",)),
    (f"{L}.ln_1.weight", f"{B}.attn_norm.weight", ("hidden",)),
    (f"{L}.ln_2.weight", f"{B}.ffn_norm.weight", ("hidden",)),
    (f"{L}.attn.c_attn.weight", f"{B}.attn_qkv.weight", ("q+kv+kv", "hidden")),
    (f"{L}.attn.c_attn.bias", f"{B}.attn_qkv.bias", ("q+kv+kv",)),
    (f"{L}.attn.c_proj.weight", f"{B}.attn_output.weight", ("hidden", "q")),
    (f"{L}.mlp.w2.weight", f"{B}.ffn_gate.weight", ("half", "hidden")),
    (f"{L}.mlp.w1.weight", f"{B}.ffn_up.weight", ("half", "hidden")),
    (f"{L}.mlp.c_proj.weight", f"{B}.ffn_down.weight", ("hidden", "half")),
)
FIXED = {"no_bias": True, "rotary_pct": 1.0, "scale_attn_weights": True, "tie_word_embeddings": False}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).spelled(**SPELLINGS)
    decoder = read_decoder(config, GRAPH)
    for key, wanted in FIXED.items():
        config.require(key, wanted, "llama.cpp's qwen graph has no other")
    if decoder.ffn % 2:
        config.complain("intermediate_size", decoder.ffn, "an even number", "half of it is the width of the MLP")
    halved = decoder.having(half=max(1, decoder.ffn // 2))
    return decoder_spec(halved, ROWS, extra=Extra(notes=_long_texts(decoder)))


def _long_texts(decoder: Decoder) -> tuple[str, ...]:
    """What to note of texts that are longer than those it was trained with."""
    config = decoder.config
    trained = config.size("seq_length", decoder.context, MAX_CONTEXT)
    if trained >= decoder.context or not (config.flag("use_dynamic_ntk") or config.flag("use_logn_attn")):
        return ()
    return (f"in texts of more than {trained} tokens the source changes frequencies and scores, llama.cpp does not",)


FAMILY = Family(
    name="qwen",
    title="Qwen 1",
    classes=("QWenLMHeadModel",),
    text=text,
    graphs="",  # transformers has no class of its own for it
)
