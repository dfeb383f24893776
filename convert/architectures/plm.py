"""PLM: attention through latent vectors, a squared ReLU without a gate, the embedding for a head."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rope import Rotary
from convert.architectures._rows import ENDS, MLP, NORMS
from convert.architectures.deepseek2 import LATENT, QUERY
from convert.architectures.minicpm3 import KEYS_AND_VALUES
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("plm", default_epsilon=1e-6, activations=("relu2",), rotary=Rotary(()), tied=True)
ROWS: tuple[TensorRule, ...] = (*ENDS, *NORMS, *LATENT, *QUERY, KEYS_AND_VALUES, *MLP[1:])


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).spelled(head_dim="qk_rope_head_dim")
    decoder = read_decoder(config, GRAPH)
    config.require("num_key_value_heads", decoder.heads, "every head has its own rows in kv_b_proj")
    for key, wanted in {"tie_word_embeddings": True, "q_lora_rank": None, "attention_bias": False}.items():
        config.require(key, wanted, "llama.cpp's plm graph has no other")
    decoder = _sized(decoder)
    numbers = {
        "vocab_size": decoder.vocab,
        "attention.kv_lora_rank": decoder.more["latent"],
        "attention.key_length": decoder.more["key"],
        "attention.value_length": decoder.more["value"],
        "rope.dimension_count": decoder.head_dim,
    }
    return decoder_spec(decoder, ROWS, [Field.uint32(f"plm.{key}", value) for key, value in numbers.items()])


def _sized(decoder: Decoder) -> Decoder:
    """The decoder with the dimensions of latent attention."""
    config, heads = decoder.config, decoder.heads
    plain, value = config.size("qk_nope_head_dim"), config.size("v_head_dim")
    return decoder.having(
        rope=decoder.head_dim,
        key=plain + decoder.head_dim,
        value=value,
        queries=heads * (plain + decoder.head_dim),
        keys=heads * plain,
        values=heads * value,
        latent=config.size("kv_lora_rank"),
    )


FAMILY = Family(
    name="plm",
    title="PLM",
    classes=("PLMForCausalLM",),
    text=text,
    graphs="",  # transformers has no class of its own for it
)
