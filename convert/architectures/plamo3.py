"""PLaMo 3: four norms a layer and norms on queries and keys, each with an offset of its own; windows."""

from __future__ import annotations

from collections.abc import Iterator

from convert.architectures._config import MAX_CONTEXT, Config
from convert.architectures._decoder import Decoder, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._roles import TensorRole
from convert.architectures._rope import Rotary
from convert.architectures._rows import ENDS, B
from convert.architectures.plamo2 import TRANSFORMS
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("plamo3", default_epsilon=1e-6, rotary=Rotary((), theta=1e6), windowed=True, tied=True)
LAYER = "model.layers.layers.{i}"
MIXER = f"{LAYER}.mixer"
ROWS: tuple[TensorRule, ...] = (
    ENDS[0],
    ("model.norm.weight", "output_norm.weight", ("hidden",), "one"),
    (f"{LAYER}.pre_mixer_norm.weight", f"{B}.attn_norm.weight", ("hidden",), "one"),
    # llama.cpp wants these without .weight
    (f"{LAYER}.post_mixer_norm.weight", f"{B}.post_attention_norm", ("hidden",), "fifth"),
    (f"{LAYER}.pre_mlp_norm.weight", f"{B}.ffn_norm.weight", ("hidden",), "one"),
    (f"{LAYER}.post_mlp_norm.weight", f"{B}.post_ffw_norm", ("hidden",), "less"),
    (f"{MIXER}.qkv_proj.weight", f"{B}.attn_qkv.weight", ("q+kv+kv", "hidden")),
    (f"{MIXER}.q_norm.weight", f"{B}.attn_q_norm.weight", ("head",), "one"),
    (f"{MIXER}.k_norm.weight", f"{B}.attn_k_norm.weight", ("head",), "one"),
    (f"{MIXER}.o_proj.weight", f"{B}.attn_output.weight", ("hidden", "q")),
    (f"{LAYER}.mlp.gate_up_proj.weight", f"{B}.ffn_up.weight", ("ffn+ffn", "hidden"), TensorRole.GATE_UP),
    (f"{LAYER}.mlp.down_proj.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    config.require("rope_scaling_factor", 1, "its YaRN rounds no frequencies, llama.cpp's does")
    fields = [
        *head_size_fields(decoder),
        Field.uint32("plamo3.vocab_size", decoder.vocab),
        *_window_fields(decoder),
    ]
    return decoder_spec(decoder, ROWS, fields, TRANSFORMS)


def _window_fields(decoder: Decoder) -> Iterator[Field]:
    """The window, every which layer has none, and the frequencies within it."""
    config = decoder.config
    key = "window_size" if config.has("window_size") else "sliding_window"
    if not config.has(key):
        return
    yield Field.uint32("plamo3.attention.sliding_window", config.size(key, most=MAX_CONTEXT))
    yield Field.uint32("plamo3.attention.sliding_window_pattern", config.size("sliding_window_pattern", 8))
    if config.has("rope_local_theta"):
        yield Field.float32("plamo3.rope.freq_base_swa", config.number("rope_local_theta"))


FAMILY = Family(
    name="plamo3",
    title="PLaMo 3",
    classes=("Plamo3ForCausalLM", "PLaMo3ForCausalLM"),
    text=text,
    graphs="",
)
