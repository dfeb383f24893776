"""MPT: no positions but a slope on the scores, no biases."""

from __future__ import annotations

from collections.abc import Mapping

from convert.architectures._config import Config
from convert.architectures._decoder import GELU, Extra, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rows import B
from convert.gguf_field import Field
from convert.json_types import JsonObject

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
ROWS: tuple[TensorRule, ...] = (
    ("transformer.wte.weight", "token_embd.weight", ("vocab", "hidden")),
    ("transformer.norm_f.weight", "output_norm.weight", ("hidden",)),
    (f"{L}.norm_1.weight", f"{B}.attn_norm.weight", ("hidden",)),
    (f"{L}.norm_2.weight", f"{B}.ffn_norm.weight", ("hidden",)),
    (f"{L}.attn.Wqkv.weight", f"{B}.attn_qkv.weight", ("q+kv+kv", "hidden")),
    (f"{L}.attn.out_proj.weight", f"{B}.attn_output.weight", ("hidden", "q")),
    (f"{L}.ffn.up_proj.weight", f"{B}.ffn_up.weight", ("ffn", "hidden")),
    (f"{L}.ffn.down_proj.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)
PLAIN: Mapping[str, object] = {"no_bias": True, "expansion_ratio": 4, "embedding_fraction": 1.0}
USUAL = 8.0
ATTENTION: Mapping[str, object] = {
    "alibi": True,
    "attn_type": "multihead_attention",
    "attn_uses_sequence_id": False,
    "prefix_lm": False,
    "qk_ln": False,
}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).spelled(**SPELLINGS)
    config = config.with_defaults(intermediate_size=4 * config.size("hidden_size"))
    decoder = read_decoder(config, GRAPH)
    for key, wanted in PLAIN.items():
        config.require(key, wanted, "transformers' model has no other")
    attention = config.sub("attn_config")
    for key, wanted in ATTENTION.items():
        attention.require(key, wanted, "transformers' and llama.cpp's have no other in common")
    attention.require("softmax_scale", decoder.head_dim**-0.5, "llama.cpp's mpt graph has no other")
    steepest = attention.number("alibi_bias_max", USUAL)
    fields = [Field.float32("mpt.attention.max_alibi_bias", steepest)]
    notes = (
        () if steepest == USUAL else (f"llama.cpp takes alibi_bias_max, {steepest:g}; transformers always {USUAL:g}",)
    )
    if attention.has("clip_qkv"):
        fields.append(Field.float32("mpt.attention.clamp_kqv", attention.number("clip_qkv")))
    return decoder_spec(decoder, ROWS, fields, extra=Extra(notes=notes))


FAMILY = Family(
    name="mpt",
    title="MPT",
    classes=("MPTForCausalLM", "MptForCausalLM"),
    text=text,
    tested=("onnx",),
)
