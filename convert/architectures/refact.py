"""Refact: no positions but a slope on the scores, one head of keys and values, gate and up in one matrix."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rows import B
from convert.json_types import JsonObject

GRAPH = Graph(
    "refact",
    epsilon="layer_norm_epsilon",
    default_epsilon=1e-5,
    activation="activation_function",
    rotary=None,
    square=True,
)
SPELLINGS = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
MULTIPLE = 256  # that the width of MLPs is rounded up to
H = "transformer.h.{i}"
ROWS: tuple[TensorRule, ...] = (
    ("transformer.wte.weight", "token_embd.weight", ("vocab", "hidden")),
    ("ln_f.weight", "output_norm.weight", ("hidden",)),
    (f"{H}.ln_1.weight", f"{B}.attn_norm.weight", ("hidden",)),
    (f"{H}.ln_2.weight", f"{B}.ffn_norm.weight", ("hidden",)),
    (f"{H}.attn.q.weight", f"{B}.attn_q.weight", ("q", "hidden")),
    (f"{H}.attn.kv.weight", (f"{B}.attn_k.weight", f"{B}.attn_v.weight"), ("kv+kv", "hidden")),
    (f"{H}.attn.c_proj.weight", f"{B}.attn_output.weight", ("hidden", "q")),
    (f"{H}.mlp.gate_up_proj.weight", (f"{B}.ffn_gate.weight", f"{B}.ffn_up.weight"), ("ffn+ffn", "hidden")),
    (f"{H}.mlp.c_proj.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)
FIXED = {"do_layer_norm_before": True, "multi_query": True}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).spelled(**SPELLINGS)
    inner = 2 * 4 * config.size("n_embd") // 3
    more = {"intermediate_size": inner + -inner % MULTIPLE, "num_key_value_heads": 1}
    config = Config({**values, **more}, config.where, config.problems, config.spellings)
    for key, wanted in FIXED.items():
        config.require(key, wanted, "llama.cpp's refact graph has no other")
    return decoder_spec(read_decoder(config, GRAPH), ROWS)


FAMILY = Family(
    name="refact",
    title="Refact",
    classes=("GPTRefactForCausalLM",),
    text=text,
    graphs="",
)
