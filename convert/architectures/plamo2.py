"""PLaMo 2: layers of Mamba with norms on B, C and the time steps, in turn with attention; four norms a layer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import PLUS_ONE, GraphSpec, TensorRule, Transform, expand
from convert.architectures._rope import Rotary
from convert.architectures._rows import ENDS, B
from convert.architectures._state_space import DECAY, KERNEL
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("plamo2", default_epsilon=1e-6, rotary=Rotary(scalings=()), tied=True)
DEFAULTS = {  # the checkpoints' own class where the config is silent
    "hidden_size_per_head": 128,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "mamba_num_heads": 64,
    "mamba_d_state": 64,
}
LAYER = "model.layers.layers.{i}"
MIXER = f"{LAYER}.mixer"
ALWAYS: tuple[TensorRule, ...] = (
    ENDS[0],
    ("model.norm.weight", "output_norm.weight", ("hidden",), "one"),
    (f"{LAYER}.pre_mixer_norm.weight", f"{B}.attn_norm.weight", ("hidden",), "one"),
    # llama.cpp wants these without .weight
    (f"{LAYER}.post_mixer_norm.weight", f"{B}.post_attention_norm", ("hidden",), "fifth"),
    (f"{LAYER}.pre_mlp_norm.weight", f"{B}.ffn_norm.weight", ("hidden",), "one"),
    (f"{LAYER}.post_mlp_norm.weight", f"{B}.post_ffw_norm", ("hidden",), "less"),
    (f"{LAYER}.mlp.gate_up_proj.weight", f"{B}.ffn_up.weight", ("ffn+ffn", "hidden")),
    (f"{LAYER}.mlp.down_proj.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)
ATTENTION: tuple[TensorRule, ...] = (
    (f"{MIXER}.qkv_proj.weight", f"{B}.attn_qkv.weight", ("q+kv+kv", "hidden")),
    (f"{MIXER}.o_proj.weight", f"{B}.attn_output.weight", ("hidden", "q")),
    (f"{MIXER}.q_weight", f"{B}.attn_q_norm.weight", ("heads", "head")),
    (f"{MIXER}.k_weight", f"{B}.attn_k_norm.weight", ("kv_heads", "head")),
)
RECURRENT: tuple[TensorRule, ...] = (
    (f"{MIXER}.in_proj.weight", f"{B}.ssm_in.weight", ("inner+inner", "hidden")),
    (f"{MIXER}.conv1d.weight", f"{B}.ssm_conv1d.weight", ("inner", "unit", "kernel"), "kernel"),
    (f"{MIXER}.bcdt_proj.weight", f"{B}.ssm_x.weight", ("steps+state+state", "inner")),
    (f"{MIXER}.dt_proj.weight", f"{B}.ssm_dt.weight", ("ssm_heads", "steps")),
    (f"{MIXER}.dt_bias", f"{B}.ssm_dt.bias", ("ssm_heads",)),
    (f"{MIXER}.A_log", f"{B}.ssm_a", ("ssm_heads",), "decay"),
    (f"{MIXER}.D", f"{B}.ssm_d", ("ssm_heads",)),
    (f"{MIXER}.out_proj.weight", f"{B}.ssm_out.weight", ("hidden", "inner")),
    (f"{MIXER}.dt_norm_weight", f"{B}.ssm_dt_norm", ("steps",)),
    (f"{MIXER}.B_norm_weight", f"{B}.ssm_b_norm", ("state",)),
    (f"{MIXER}.C_norm_weight", f"{B}.ssm_c_norm", ("state",)),
)
WINDOW_NOTE = "the source's attention sees {} tokens back in most layers, llama.cpp's all; longer texts differ"


def _plus(number: float) -> Transform:
    return Transform(change=lambda values: values + np.float32(number))


TRANSFORMS = {"one": PLUS_ONE, "fifth": _plus(1 / 5), "less": _plus(1 / 5**1.5), "kernel": KERNEL, "decay": DECAY}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(**DEFAULTS).spelled(head_dim="hidden_size_per_head")
    decoder = read_decoder(config, GRAPH)
    config.require("mamba_enabled", True, "llama.cpp's plamo2 graph needs layers of Mamba")
    heads, step = config.size("mamba_num_heads"), config.size("mamba_step", 2)
    inner = heads * decoder.head_dim
    decoder = decoder.having(
        heads=decoder.heads,
        kv_heads=decoder.kv_heads,
        inner=inner,
        ssm_heads=heads,
        state=config.size("mamba_d_state"),
        kernel=config.size("mamba_d_conv", 4),
        steps=max(64, decoder.hidden // 16),
        unit=1,
    )
    attends = [_attends(i, step, decoder.layers) for i in range(decoder.layers)]
    window = config.size("window_size", decoder.context, most=1 << 30)
    if window < decoder.context:
        decoder = replace(decoder, notes=(*decoder.notes, WINDOW_NOTE.format(window)))
    tensors = (
        *expand(ATTENTION, decoder.sizes, layers=[i for i, one in enumerate(attends) if one]),
        *expand(RECURRENT, decoder.sizes, TRANSFORMS, [i for i, one in enumerate(attends) if not one]),
    )
    return decoder_spec(decoder, ALWAYS, _fields(decoder, attends), TRANSFORMS, Extra(tensors=tensors))


def _attends(layer: int, step: int, layers: int) -> bool:
    """Whether it is a layer of attention: the middle one of every `step`, or the last of few."""
    return layer == layers - 1 if layers <= step // 2 else layer % step == step // 2


def _fields(decoder: Decoder, attends: list[bool]) -> list[Field]:
    size = decoder.sizes
    numbers = {
        "vocab_size": decoder.vocab,
        "attention.key_length": decoder.head_dim,
        "attention.value_length": decoder.head_dim,
        "ssm.state_size": size["state"],
        "ssm.conv_kernel": size["kernel"],
        "ssm.time_step_rank": size["ssm_heads"],
        "ssm.inner_size": size["inner"],
        "ssm.group_count": 0,
    }
    counts = {"attention.head_count": decoder.heads, "attention.head_count_kv": decoder.kv_heads}
    return [
        *(Field.uint32(f"plamo2.{key}", value) for key, value in numbers.items()),
        *(Field.int32s(f"plamo2.{key}", [count * one for one in attends]) for key, count in counts.items()),
    ]


FAMILY = Family(
    name="plamo2",
    title="PLaMo 2",
    classes=("Plamo2ForCausalLM", "PLaMo2ForCausalLM"),
    text=text,
    graphs="",
)
