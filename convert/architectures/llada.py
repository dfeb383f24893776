"""LLaDA: Llama's layers, all of whose tokens see each other; masked tokens are filled in, by diffusion."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Extra, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, MLP, NORMS, named
from convert.architectures.llama import side_by_side
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("llada", default_epsilon=1e-5, activations=("silu",), activation="activation_type", rotary=Rotary(()))
SPELLINGS = {
    "hidden_size": "d_model",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "intermediate_size": "mlp_hidden_size",
    "max_position_embeddings": "max_sequence_length",
    "tie_word_embeddings": "weight_tying",
    "vocab_size": "embedding_size",
}
T = "model.transformer"
NAMES = (
    ("model.layers.", f"{T}.blocks."),
    ("self_attn.o_proj", "attn_out"),
    ("self_attn.", ""),
    ("mlp.gate_proj", "ff_proj"),
    ("mlp.down_proj", "ff_out"),
    ("mlp.", ""),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ff_norm"),
)
ENDS: tuple[TensorRule, ...] = (
    (f"{T}.wte.weight", "token_embd.weight", ("vocab", "hidden")),
    (f"{T}.ln_f.weight", "output_norm.weight", ("hidden",)),
)
HEAD: TensorRule = (f"{T}.ff_out.weight", "output.weight", ("vocab", "hidden"))
FIXED = {
    "alibi": False,
    "attention_layer_norm": False,
    "block_type": "llama",
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "multi_query_attention": None,
    "rope": True,
    "scale_logits": False,
}
SEES_ALL = "every token sees all others, also those behind it: a masked text is filled in, nothing is continued"


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).spelled(**SPELLINGS).with_defaults(embedding_size=values.get("vocab_size"))
    decoder = read_decoder(config, GRAPH)
    for key, wanted in FIXED.items():
        config.require(key, wanted, "llama.cpp's llada graph has no other")
    fields = [
        Field.uint32("llada.vocab_size", decoder.vocab),
        Field.uint32("llada.rope.dimension_count", decoder.head_dim),
        Field.boolean("llada.attention.causal", False),
        Field.boolean("diffusion.shift_logits", False),
    ]
    rows = (*ENDS, *named((*NORMS, *ATTENTION, *MLP), *NAMES))
    return decoder_spec(decoder, rows, fields, side_by_side(decoder), Extra(head=HEAD, notes=[SEES_ALL]))


FAMILY = Family(
    name="llada",
    title="LLaDA",
    classes=("LLaDAModelLM",),
    text=text,
    graphs="",
)
