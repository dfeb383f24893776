"""QRWKV 6: Qwen2's MLPs behind RWKV 6's time mixing, without its norms and with keys and values that heads share."""

from __future__ import annotations

import numpy as np

from convert.architectures._config import Config
from convert.architectures._decoder import NO_POSITIONS, Extra, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule, Transform
from convert.architectures._rows import ENDS, MLP, NORMS, B, L, biases
from convert.architectures.rwkv6 import MIXES, TRANSFORMS, WIDE, mixes
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("rwkv6qwen2", default_epsilon=1e-6, rotary=None, square=True)
ATTN = f"{L}.self_attn"
ORDER = (3, 1, 2, 0, 4)  # of the checkpoint's r, k, v, w, g: llama.cpp's w, k, v, r, g
PROJECTIONS: tuple[TensorRule, ...] = (
    (f"{ATTN}.q_proj.weight", f"{B}.time_mix_receptance.weight", ("q", "hidden")),
    (f"{ATTN}.k_proj.weight", f"{B}.time_mix_key.weight", ("kv", "hidden")),
    (f"{ATTN}.v_proj.weight", f"{B}.time_mix_value.weight", ("kv", "hidden")),
)
ROWS: tuple[TensorRule, ...] = (
    *ENDS,
    *NORMS,
    *PROJECTIONS,
    (f"{ATTN}.o_proj.weight", f"{B}.time_mix_output.weight", ("hidden", "q")),
    (f"{ATTN}.gate.weight", f"{B}.time_mix_gate.weight", ("q", "hidden")),
    (f"{ATTN}.time_maa_x", f"{B}.time_mix_lerp_x.weight", ("one", "one", "hidden"), "flat"),
    (f"{ATTN}.time_decay", f"{B}.time_mix_decay.weight", ("one", "one", "hidden"), "flat"),
    (f"{ATTN}.time_maa_w1", f"{B}.time_mix_w1.weight", ("hidden", "mixes"), "first"),
    (f"{ATTN}.time_maa_w2", f"{B}.time_mix_w2.weight", ("five", "mix", "hidden"), "second"),
    (f"{ATTN}.time_decay_w1", f"{B}.time_mix_decay_w1.weight", ("hidden", "decay"), "transposed"),
    (f"{ATTN}.time_decay_w2", f"{B}.time_mix_decay_w2.weight", ("decay", "hidden"), "transposed"),
    *MLP,
)


def _first(weight: np.ndarray) -> np.ndarray:
    parts = weight.T.reshape(len(ORDER), -1, len(weight))
    return parts[list(ORDER)]


def _second(weight: np.ndarray) -> np.ndarray:
    return weight.swapaxes(1, 2)[list(ORDER)]


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(max_position_embeddings=NO_POSITIONS)
    decoder = read_decoder(config, GRAPH)
    wide = decoder.hidden >= WIDE
    mix = config.size("lora_rank_tokenshift", 64 if wide else 32)
    decay = config.size("lora_rank_decay", 128 if wide else 64)
    decoder = decoder.having(mix=mix, mixes=mix * len(MIXES), decay=decay, five=len(MIXES), one=1)
    fields = [
        Field.uint32("rwkv6qwen2.context_length", NO_POSITIONS),
        Field.uint32("rwkv6qwen2.attention.head_count", 0),  # llama.cpp wants it there
        Field.uint32("rwkv6qwen2.wkv.head_size", decoder.head_dim),
        Field.uint32("rwkv6qwen2.time_mix_extra_dim", mix),
        Field.uint32("rwkv6qwen2.time_decay_extra_dim", decay),
        Field.uint32("rwkv6qwen2.token_shift_count", 1),
    ]
    rows = (*ROWS, *biases(PROJECTIONS)) if config.flag("attention_bias", True) else ROWS
    transforms = {
        **TRANSFORMS,
        "first": Transform(_first, transpose=True),
        "second": Transform(_second, transpose=True),
    }
    extra = Extra(tensors=tuple(mixes(decoder, ATTN, MIXES)))
    return decoder_spec(decoder, rows, fields, transforms, extra)


FAMILY = Family(
    name="rwkv6qwen2",
    title="QRWKV 6",
    classes=("RWKV6Qwen2ForCausalLM",),
    text=text,
    graphs="",
)
