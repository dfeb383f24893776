"""ChatGLM 2 and 3, GLM-4 (9B of 2024) in the layout of the code that came with them."""

from __future__ import annotations

from convert.architectures import glm
from convert.architectures._config import Config
from convert.architectures._decoder import Extra, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, LeftOut, TensorRule
from convert.architectures._roles import TensorRole
from convert.architectures._rows import B
from convert.json_types import JsonObject

SPELLINGS = {
    "num_hidden_layers": "num_layers",
    "intermediate_size": "ffn_hidden_size",
    "max_position_embeddings": "seq_length",
    "vocab_size": "padded_vocab_size",
    "head_dim": "kv_channels",
    "rms_norm_eps": "layernorm_epsilon",
    "num_key_value_heads": "multi_query_group_num",
}
L = "transformer.encoder.layers.{i}"
ROWS: tuple[TensorRule, ...] = (
    ("transformer.embedding.word_embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
    ("transformer.encoder.final_layernorm.weight", "output_norm.weight", ("hidden",)),
    (f"{L}.input_layernorm.weight", f"{B}.attn_norm.weight", ("hidden",)),
    (f"{L}.post_attention_layernorm.weight", f"{B}.ffn_norm.weight", ("hidden",)),
    (f"{L}.self_attention.query_key_value.weight", f"{B}.attn_qkv.weight", ("q+kv+kv", "hidden")),
    (f"{L}.self_attention.dense.weight", f"{B}.attn_output.weight", ("hidden", "q")),
    (f"{L}.mlp.dense_h_to_4h.weight", f"{B}.ffn_up.weight", ("ffn+ffn", "hidden"), TensorRole.GATE_UP),
    (f"{L}.mlp.dense_4h_to_h.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)
BIAS: TensorRule = (f"{L}.self_attention.query_key_value.bias", f"{B}.attn_qkv.bias", ("q+kv+kv",))
HEAD: TensorRule = ("transformer.output_layer.weight", "output.weight", ("vocab", "hidden"))
FREQUENCIES = LeftOut("rotary_pos_emb.inv_freq", "llama.cpp computes the frequencies from rope.freq_base")
FIXED = {
    "rmsnorm": True,
    "add_bias_linear": False,
    "post_layer_norm": True,
    "apply_residual_connection_post_layernorm": False,
    "position_encoding_2d": False,  # of the first ChatGLM
}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).spelled(**SPELLINGS)
    if not config.flag("multi_query_attention"):
        config = Config({**config.values, "multi_query_group_num": None}, problems=config.problems).spelled(**SPELLINGS)
    config = config.with_defaults(rope_theta=10000.0 * config.number("rope_ratio", 1.0))
    decoder = read_decoder(config, glm.GRAPH)
    for key, wanted in FIXED.items():
        config.require(key, wanted, "llama.cpp's chatglm graph has no other")
    rows = (*ROWS, BIAS) if config.flag("add_qkv_bias") else ROWS
    return decoder_spec(decoder, rows, extra=Extra(head=HEAD, left_out=[FREQUENCIES]))


FAMILY = Family(
    name="chatglm",
    title="ChatGLM 2 and 3, GLM-4 (9B of 2024) in the layout of the code that came with them",
    classes=("ChatGLMModel", "ChatGLMForConditionalGeneration"),
    text=text,
    graphs="",  # transformers has no class of its own for it
)
