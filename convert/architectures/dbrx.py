"""DBRX: layer norms, clipped queries, keys and values in one matrix, experts stacked along their rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, OutputTensor, SourceTensor, TensorRule
from convert.architectures._rope import Rotary
from convert.architectures._rows import B
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("dbrx", layer_norm=True, epsilon="layer_norm_eps", default_epsilon=1e-5, rotary=Rotary(()), square=True)
BLOCK = "transformer.blocks.{i}"
ROWS: tuple[TensorRule, ...] = (
    ("transformer.wte.weight", "token_embd.weight", ("vocab", "hidden")),
    ("transformer.norm_f.weight", "output_norm.weight", ("hidden",)),
    (f"{BLOCK}.norm_attn_norm.norm_1.weight", f"{B}.attn_norm.weight", ("hidden",)),
    (f"{BLOCK}.norm_attn_norm.attn.Wqkv.weight", f"{B}.attn_qkv.weight", ("q+kv+kv", "hidden")),
    (f"{BLOCK}.norm_attn_norm.attn.out_proj.weight", f"{B}.attn_output.weight", ("hidden", "q")),
    (f"{BLOCK}.norm_attn_norm.norm_2.weight", f"{B}.attn_output_norm.weight", ("hidden",)),
    (f"{BLOCK}.ffn.router.layer.weight", f"{B}.ffn_gate_inp.weight", ("experts", "hidden")),
)
STACKED = {"w1": "ffn_gate_exps", "v1": "ffn_up_exps", "w2": "ffn_down_exps"}
NAMES = {
    "hidden_size": "d_model",
    "num_attention_heads": "n_heads",
    "num_hidden_layers": "n_layers",
    "max_position_embeddings": "max_seq_len",
    "num_key_value_heads": "kv_n_heads",
    "num_experts": "moe_num_experts",
    "num_experts_per_tok": "moe_top_k",
    "intermediate_size": "ffn_hidden_size",
}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    root = Config(values)
    attention, ffn = root.sub("attn_config"), root.sub("ffn_config")
    flat = {**values, **attention.values, **ffn.values, "hidden_act": None, "hidden_size": None}
    config = Config(flat, root.where, root.problems).spelled(**NAMES)
    decoder = read_decoder(config, GRAPH)
    config.require("tie_word_embeddings", False, "llama.cpp's dbrx graph wants a head of its own")
    ffn.sub("ffn_act_fn").require("name", "silu", "llama.cpp's dbrx graph has no other")
    ffn.require("moe_normalize_expert_weights", 1, "llama.cpp's graph divides by the sum of the weights")
    experts = read_experts(decoder, ffn="intermediate_size")
    decoder = with_experts(decoder, experts)
    fields = [
        *expert_fields(decoder, experts, width=False),
        Field.float32("dbrx.attention.clamp_kqv", attention.number("clip_qkv", 0.0, above=False)),
    ]
    return decoder_spec(decoder, ROWS, fields, extra=Extra(tensors=_experts(decoder)))


def _experts(decoder: Decoder) -> Iterator[SourceTensor]:
    """All experts of a layer in three matrices (experts * width, hidden); down as the other two, not transposed."""
    size = decoder.sizes
    experts, width, hidden = size["experts"], size["expert_ffn"], decoder.hidden

    def apart(weight: np.ndarray) -> np.ndarray:
        return weight.reshape(experts, width, hidden)

    def transposed(weight: np.ndarray) -> np.ndarray:
        return apart(weight).swapaxes(1, 2)

    for layer in range(decoder.layers):
        for own, name in STACKED.items():
            down = own == "w2"
            shape = (experts, hidden, width) if down else (experts, width, hidden)
            output = OutputTensor(f"blk.{layer}.{name}.weight", shape, transposed if down else apart)
            source = f"transformer.blocks.{layer}.ffn.experts.mlp.{own}"
            yield SourceTensor(source, (experts * width, hidden), (output,))


FAMILY = Family(
    name="dbrx",
    title="DBRX",
    classes=("DbrxForCausalLM",),
    text=text,
)
