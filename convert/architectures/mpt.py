"""MPT: no positions but a penalty on distance (ALiBi), LayerNorm without biases, clamped queries, keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from convert.architectures._config import Config
from convert.architectures._decoder import GELU, Graph, decoder_part, read_decoder
from convert.architectures._part import Part, Row
from convert.architectures._rows import B
from convert.gguf.fields import Field

CLASSES = ("MPTForCausalLM", "MptForCausalLM")

GRAPH = Graph(
    "mpt",
    layer_norm=True,
    epsilon="layer_norm_epsilon",
    default_epsilon=1e-5,
    activations=GELU,
    rotary=None,
    grouped=False,
    square=True,
    tied=True,
)
SPELLINGS = {
    "hidden_size": "d_model",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "max_position_embeddings": "max_seq_len",
}

L = "transformer.blocks.{i}"
TABLE: tuple[Row, ...] = (
    ("transformer.wte.weight", "token_embd.weight", ("vocab", "hidden")),
    ("transformer.norm_f.weight", "output_norm.weight", ("hidden",)),
    (f"{L}.norm_1.weight", f"{B}.attn_norm.weight", ("hidden",)),
    (f"{L}.norm_2.weight", f"{B}.ffn_norm.weight", ("hidden",)),
    (f"{L}.attn.Wqkv.weight", f"{B}.attn_qkv.weight", ("q+kv+kv", "hidden")),
    (f"{L}.attn.out_proj.weight", f"{B}.attn_output.weight", ("hidden", "q")),
    (f"{L}.ffn.up_proj.weight", f"{B}.ffn_up.weight", ("ffn", "hidden")),
    (f"{L}.ffn.down_proj.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)
PLAIN = {"expansion_ratio": 4, "no_bias": True}  # modeling_mpt.py has no others
PLAIN_ATTENTION = {"attn_type": "multihead_attention", "alibi": True, "prefix_lm": False, "qk_ln": False}


def text(values: Mapping[str, Any]) -> Part:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).spelled(**SPELLINGS).with_defaults(max_seq_len=2048)
    sizes = {"intermediate_size": 4 * config.size("hidden_size")}
    decoder = read_decoder(replace(config, values={**config.values, **sizes}), GRAPH)
    attention = config.sub("attn_config")
    for part, words in ((config, PLAIN), (attention, PLAIN_ATTENTION)):
        for key, wanted in words.items():
            part.require(key, wanted, "transformers has no other")
    for part, key in ((config, "logit_scale"), (attention, "softmax_scale")):
        if part.has(key):
            part.complain(key, part.values[key], "none", "llama.cpp's mpt graph has no such scale")
    # MosaicML's own code computes with it, transformers with 8 always
    fields = [Field.float32("mpt.attention.max_alibi_bias", attention.number("alibi_bias_max", 8))]
    if attention.has("clip_qkv"):
        fields.append(Field.float32("mpt.attention.clamp_kqv", attention.number("clip_qkv")))
    return decoder_part(decoder, TABLE, fields)
