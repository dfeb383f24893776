"""MiniCPM 3: attention through latent vectors, factors on the embedding, on what layers add, and on the logits."""

from __future__ import annotations

from dataclasses import replace

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rope import Rotary, longrope_notes
from convert.architectures._rows import ENDS, MLP, NORMS, B, L
from convert.architectures.deepseek2 import EPSILON_NOTE, LATENT, LATENT_EPSILON, LATENT_QUERY
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("minicpm3", default_epsilon=1e-5, rotary=Rotary(("longrope",)), tied=True)
KEYS_AND_VALUES: TensorRule = (f"{L}.self_attn.kv_b_proj.weight", f"{B}.attn_kv_b.weight", ("keys+values", "latent"))
ROWS: tuple[TensorRule, ...] = (*ENDS, *NORMS, *LATENT, *LATENT_QUERY, KEYS_AND_VALUES, *MLP)
FACTORS = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256}  # models/minicpm3.cpp


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(q_lora_rank=values.get("q_lora_rank", 768), kv_lora_rank=256)
    config = config.with_defaults(qk_nope_head_dim=64, qk_rope_head_dim=32).spelled(head_dim="qk_rope_head_dim")
    decoder = read_decoder(config, GRAPH)
    config.require("num_key_value_heads", decoder.heads, "every head has its own rows in kv_b_proj")
    for key, wanted in {**FACTORS, "attention_bias": False, "mlp_bias": False}.items():
        config.require(key, wanted, "llama.cpp's minicpm3 graph has no other")
    if decoder.epsilon != LATENT_EPSILON:
        decoder = replace(decoder, notes=(*decoder.notes, EPSILON_NOTE))
    decoder = _sized(decoder)
    return decoder_spec(decoder, ROWS, _fields(decoder), extra=Extra(notes=longrope_notes(decoder.rope)))


def _sized(decoder: Decoder) -> Decoder:
    """The decoder with the dimensions of latent attention."""
    config, heads = decoder.config, decoder.heads
    plain, value = config.size("qk_nope_head_dim"), config.size("v_head_dim", max(1, decoder.hidden // heads))
    return decoder.having(
        rope=decoder.head_dim,
        key=plain + decoder.head_dim,
        value=value,
        queries=heads * (plain + decoder.head_dim),
        keys=heads * plain,
        values=heads * value,
        latent=config.size("kv_lora_rank"),
        latent_query=config.size("q_lora_rank"),
    )


def _fields(decoder: Decoder) -> list[Field]:
    size = decoder.sizes
    numbers = {
        "vocab_size": decoder.vocab,
        "attention.q_lora_rank": size["latent_query"],
        "attention.kv_lora_rank": size["latent"],
        "attention.key_length": size["key"],
        "rope.dimension_count": size["rope"],
    }
    if size["value"] != decoder.hidden // decoder.heads:  # what llama.cpp takes where the file is silent
        numbers["attention.value_length"] = size["value"]
    return [Field.uint32(f"minicpm3.{key}", value) for key, value in numbers.items()]


FAMILY = Family(
    name="minicpm3",
    title="MiniCPM 3",
    classes=("MiniCPM3ForCausalLM",),
    text=text,
)
