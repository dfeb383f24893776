"""Youtu-LLM: DeepSeek-V3's latent attention and its graph, without experts."""

from __future__ import annotations

from convert.architectures import deepseek2
from convert.architectures._config import Config
from convert.architectures._decoder import Extra, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rows import ENDS, MLP, NORMS
from convert.architectures.deepseek2 import LATENT, LATENT_QUERY, QUERY
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = deepseek2.GRAPH
DEFAULTS = {  # transformers' own
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "tie_word_embeddings": True,
}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(**DEFAULTS).spelled(head_dim="qk_rope_head_dim")
    decoder = read_decoder(config, GRAPH)
    config.require("num_key_value_heads", decoder.heads, "every head has its own rows in kv_b_proj")
    for key, wanted in {"attention_bias": False, "mlp_bias": False, "rope_interleave": True}.items():
        config.require(key, wanted, "llama.cpp's deepseek2 graph has no other for this class")
    decoder = deepseek2._sized(decoder, 0)
    rows: tuple[TensorRule, ...] = (*ENDS, *NORMS, *LATENT, *(LATENT_QUERY if decoder.more["latent_query"] else QUERY))
    fields = [
        *deepseek2._attention_fields(decoder),
        Field.uint32("deepseek2.leading_dense_block_count", decoder.layers),
        Field.uint32("deepseek2.expert_feed_forward_length", decoder.ffn),  # which llama.cpp asks for all the same
        Field.uint32("deepseek2.expert_shared_count", 0),
    ]
    latent = deepseek2.keys_and_values(decoder.sizes, decoder.heads, range(decoder.layers))
    return decoder_spec(decoder, (*rows, *MLP), fields, extra=Extra(tensors=latent))


FAMILY = Family(
    name="youtu",
    title="Youtu-LLM",
    classes=("YoutuForCausalLM",),
    text=text,
)
