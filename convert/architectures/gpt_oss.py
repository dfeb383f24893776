"""gpt-oss: attention with sinks, biases everywhere; experts in blocks of MXFP4, which are carried as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._experts import MXFP4, MXFP4_TRANSFORMS, expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import TRANSPOSED, GraphSpec, TensorRule
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, B, L, biases
from convert.architectures._window import require_every
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph(
    "gpt-oss", default_epsilon=1e-5, rotary=Rotary(("yarn",), theta=150000.0), windowed=True, carries=("mxfp4",)
)
NORMS: tuple[TensorRule, ...] = (
    (f"{L}.input_layernorm.weight", f"{B}.attn_norm.weight", ("hidden",)),
    (f"{L}.post_attention_layernorm.weight", f"{B}.post_attention_norm.weight", ("hidden",)),
)
ROUTER: tuple[TensorRule, ...] = (
    (f"{L}.self_attn.sinks", f"{B}.attn_sinks.weight", ("heads",)),
    (f"{L}.mlp.router.weight", f"{B}.ffn_gate_inp.weight", ("experts", "hidden")),
    (f"{L}.mlp.router.bias", f"{B}.ffn_gate_inp.bias", ("experts",)),
)
# a row for the gate, a row for up, a row for the gate, …
GATE_UP, DOWN = f"{L}.mlp.experts.gate_up_proj", f"{L}.mlp.experts.down_proj"
GATE_UP_NAMES, DOWN_NAME = (f"{B}.ffn_gate_exps.weight", f"{B}.ffn_up_exps.weight"), f"{B}.ffn_down_exps.weight"
IN_TURN = "expert_ffn/expert_ffn"
EXPERT_BIASES: tuple[TensorRule, ...] = (
    (f"{GATE_UP}_bias", (f"{B}.ffn_gate_exps.bias", f"{B}.ffn_up_exps.bias"), ("experts", IN_TURN)),
    (f"{DOWN}_bias", f"{B}.ffn_down_exps.bias", ("experts", "hidden")),
)
BLOCKS: tuple[TensorRule, ...] = (
    (f"{GATE_UP}_blocks", GATE_UP_NAMES, ("experts", IN_TURN, "hidden_blocks", "bytes"), "blocks"),
    (f"{GATE_UP}_scales", GATE_UP_NAMES, ("experts", IN_TURN, "hidden_blocks"), "scales"),
    (f"{DOWN}_blocks", DOWN_NAME, ("experts", "hidden", "ffn_blocks", "bytes"), "blocks"),
    (f"{DOWN}_scales", DOWN_NAME, ("experts", "hidden", "ffn_blocks"), "scales"),
)
PLAIN: tuple[TensorRule, ...] = (  # as others publish them, made into 16 bits
    (GATE_UP, GATE_UP_NAMES, ("experts", "hidden", IN_TURN), "transpose"),
    (DOWN, DOWN_NAME, ("experts", "expert_ffn", "hidden"), "transpose"),
)
ROWS = (*ENDS, *NORMS, *ATTENTION, *biases(ATTENTION), *ROUTER, *EXPERT_BIASES)
TRANSFORMS = {**MXFP4_TRANSFORMS, "transpose": TRANSPOSED}
FIXED = {"attention_bias": True, "swiglu_alpha": 1.702, "swiglu_limit": 7.0, "tie_word_embeddings": False}
ROUNDED = (
    "the source's YaRN does not round the range of frequencies it slides over, llama.cpp rounds it outwards: "
    "frequencies there differ a little"
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config, notes = _rounded(Config(values).with_defaults(head_dim=64, sliding_window=128))
    decoder = read_decoder(config, GRAPH)
    for key, wanted in FIXED.items():
        config.require(key, wanted, "llama.cpp's gpt-oss graph has no other")
    experts = read_experts(decoder, count="num_local_experts", ffn="intermediate_size")
    fields = [
        *head_size_fields(decoder),
        Field.uint32("gpt-oss.attention.sliding_window", require_every(config, decoder.layers, 2)),
        *expert_fields(decoder, experts),
    ]
    rows = (*ROWS, *(BLOCKS if config.has("quantization_config") else PLAIN))
    return decoder_spec(_sized(with_experts(decoder, experts)), rows, fields, TRANSFORMS, Extra(notes=notes))


def _sized(decoder: Decoder) -> Decoder:
    """The decoder with the dimensions of sinks and of blocks."""
    block = MXFP4.block
    if decoder.config.has("quantization_config"):
        for key, size in (("hidden_size", decoder.hidden), ("intermediate_size", decoder.ffn)):
            if size % block:
                decoder.config.complain(key, size, f"a multiple of {block}, the values in a block of MXFP4")
    blocks = {"hidden_blocks": decoder.hidden // block, "ffn_blocks": decoder.ffn // block, "bytes": block // 2}
    return decoder.having(heads=decoder.heads, **blocks)


def _rounded(config: Config) -> tuple[Config, tuple[str, ...]]:
    """The config with a range of frequencies that is rounded, as llama.cpp has it, and a note where it was not."""
    key = "rope_parameters" if config.has("rope_parameters") else "rope_scaling"
    scaling = config.values.get(key)
    if not isinstance(scaling, Mapping) or scaling.get("truncate") is not False:
        return config, ()
    return replace(config, values={**config.values, key: {**scaling, "truncate": True}}), (ROUNDED,)


FAMILY = Family(
    name="gpt_oss",
    title="gpt-oss",
    classes=("GptOssForCausalLM",),
    text=text,
)
