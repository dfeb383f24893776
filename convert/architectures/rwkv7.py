"""RWKV 7: layers of time mixing, whose state is a matrix a head, and of channel mixing; no attention."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, read_attentionless
from convert.architectures._family import Family
from convert.architectures._graph_spec import (
    GraphSpec,
    LeftOut,
    OutputTensor,
    SourceTensor,
    TensorRule,
    Transform,
    expand,
)
from convert.architectures._rows import B, L, biases
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("rwkv7", layer_norm=True, epsilon="norm_eps", default_epsilon=1e-5, grouped=False, rotary=None, mlp=False)
MIXES = ("r", "w", "k", "v", "a", "g")  # what the token before is mixed into, in llama.cpp's order
RANKS = {  # the config's word -> (GGUF's, exponent and factor of the width where the config is silent)
    "decay_low_rank_dim": ("decay_lora_rank", 0.5, 1.8),
    "a_low_rank_dim": ("iclr_lora_rank", 0.5, 1.8),
    "v_low_rank_dim": ("value_residual_mix_lora_rank", 0.5, 1.3),
    "gate_low_rank_dim": ("gate_lora_rank", 0.8, 0.6),
}
ATTN = f"{L}.attn"
NORMS: tuple[TensorRule, ...] = (
    ("model.norm.weight", "output_norm.weight", ("hidden",)),
    (f"{L}.attn_norm.weight", f"{B}.attn_norm.weight", ("hidden",)),
    (f"{L}.ffn_norm.weight", f"{B}.attn_norm_2.weight", ("hidden",)),
    (f"{ATTN}.g_norm.weight", f"{B}.time_mix_ln.weight", ("hidden",)),
    ("model.layers.0.pre_norm.weight", "token_embd_norm.weight", ("hidden",)),
)
ROWS: tuple[TensorRule, ...] = (
    ("model.embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
    *NORMS,
    *biases(NORMS),
    (f"{ATTN}.r_proj.weight", f"{B}.time_mix_receptance.weight", ("hidden", "hidden")),
    (f"{ATTN}.k_proj.weight", f"{B}.time_mix_key.weight", ("hidden", "hidden")),
    (f"{ATTN}.v_proj.weight", f"{B}.time_mix_value.weight", ("hidden", "hidden")),
    (f"{ATTN}.o_proj.weight", f"{B}.time_mix_output.weight", ("hidden", "hidden")),
    (f"{ATTN}.k_k", f"{B}.time_mix_k_k.weight", ("hidden",)),
    (f"{ATTN}.k_a", f"{B}.time_mix_k_a.weight", ("hidden",)),
    (f"{ATTN}.r_k", f"{B}.time_mix_r_k.weight", ("heads", "head"), "flat"),
    (f"{ATTN}.w_lora.lora.0.weight", f"{B}.time_mix_w1.weight", ("decay", "hidden")),
    (f"{ATTN}.w_lora.lora.2.weight", f"{B}.time_mix_w2.weight", ("hidden", "decay")),
    (f"{ATTN}.w_lora.lora.2.bias", f"{B}.time_mix_w0.weight", ("hidden",)),
    (f"{ATTN}.g_lora.lora.0.weight", f"{B}.time_mix_g1.weight", ("gate", "hidden")),
    (f"{ATTN}.g_lora.lora.2.weight", f"{B}.time_mix_g2.weight", ("hidden", "gate")),
    (f"{L}.ffn.x_k", f"{B}.channel_mix_lerp_k.weight", ("hidden",)),
    (f"{L}.ffn.key.weight", f"{B}.channel_mix_key.weight", ("ffn", "hidden")),
    (f"{L}.ffn.value.weight", f"{B}.channel_mix_value.weight", ("hidden", "ffn")),
)
FLAT = Transform(lambda values: values.reshape(-1), resized=lambda shape: (shape[0] * shape[1],))
VALUES: tuple[TensorRule, ...] = (
    (f"{ATTN}.v_lora.lora.0.weight", f"{B}.time_mix_v1.weight", ("residual", "hidden")),
    (f"{ATTN}.v_lora.lora.2.weight", f"{B}.time_mix_v2.weight", ("hidden", "residual")),
    (f"{ATTN}.v_lora.lora.2.bias", f"{B}.time_mix_v0.weight", ("hidden",)),
)
UNUSED = LeftOut("", "the first layer has no value of an earlier one to mix in", prefix="model.layers.0.attn.v_lora.")


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_attentionless(config, GRAPH)
    head = config.size("head_dim", 64)
    if decoder.hidden % head:
        config.complain("head_dim", head, f"a divisor of hidden_size, {decoder.hidden}")
    config.require("attn", None, "llama.cpp's rwkv7 graph has no layers of attention")
    config.require("norm_first", True, "llama.cpp's rwkv7 graph has a norm behind the embedding")
    config.require("norm_bias", True, "llama.cpp's rwkv7 graph has biases in its norms")
    config.require("value_dim", [decoder.hidden] * decoder.layers, "llama.cpp's rwkv7 graph has values as wide as keys")
    ranks = {key: config.size(key, _rank(decoder.hidden, *default)) for key, (_, *default) in RANKS.items()}
    decay, learning, residual, gate = ranks.values()
    ffn = config.size("intermediate_size", 4 * decoder.hidden)
    decoder = decoder.having(
        ffn=ffn, heads=decoder.hidden // head, head=head, decay=decay, learning=learning, residual=residual, gate=gate
    )
    fields = [
        Field.uint32("rwkv7.feed_forward_length", ffn),
        Field.uint32("rwkv7.wkv.head_size", head),
        *(Field.uint32(f"rwkv7.attention.{RANKS[key][0]}", rank) for key, rank in ranks.items()),
    ]
    tensors = (
        *expand(VALUES, decoder.sizes, layers=range(1, decoder.layers)),
        *_learning_rates(decoder),
        *_mixes(decoder),
    )
    return decoder_spec(decoder, ROWS, fields, {"flat": FLAT}, Extra(tensors=tensors, left_out=[UNUSED]))


def _rank(hidden: int, exponent: float, factor: float) -> int:
    """fla's default (configuration_rwkv7.py): a multiple of 32."""
    return max(1, round(float(hidden**exponent) * factor / 32)) * 32


def _learning_rates(decoder: Decoder) -> Iterator[SourceTensor]:
    """The tensors of the learning rate; llama.cpp wants some of the first layer's value too, and never uses them."""
    size = decoder.sizes
    kinds = (
        ("0.weight", "1", (size["learning"], decoder.hidden)),
        ("2.weight", "2", (decoder.hidden, size["learning"])),
        ("2.bias", "0", (decoder.hidden,)),
    )
    for i in range(decoder.layers):
        for source, number, shape in kinds:
            names = "va" if i == 0 else "a"
            outputs = tuple(OutputTensor(f"blk.{i}.time_mix_{name}{number}.weight", shape) for name in names)
            yield SourceTensor(f"model.layers.{i}.attn.a_lora.lora.{source}", shape, outputs)


def _mixes(decoder: Decoder) -> Iterator[SourceTensor]:
    """How much of the token before goes into what, all in one tensor."""
    hidden = decoder.hidden

    def row(values: np.ndarray) -> np.ndarray:
        return values.reshape(1, 1, hidden)

    for i in range(decoder.layers):
        for place, mix in enumerate(MIXES):
            output = OutputTensor(f"blk.{i}.time_mix_lerp_fused.weight", (len(MIXES), 1, 1, hidden), row, place)
            yield SourceTensor(f"model.layers.{i}.attn.x_{mix}", (1, 1, hidden), (output,))


FAMILY = Family(
    name="rwkv7",
    title="RWKV 7",
    classes=("RWKV7ForCausalLM", "Rwkv7ForCausalLM"),
    text=text,
    graphs="",
)
