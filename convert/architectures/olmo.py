"""OLMo 1: norms without weights; in transformers' layout, or in that of AI2's own code."""

from __future__ import annotations

from dataclasses import replace

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, OutputTensor, SourceTensor, TensorRule, View
from convert.architectures._rows import ATTENTION, ENDS, MLP, B
from convert.architectures.llama import pairs_together, side_by_side
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("olmo", layer_norm=True, epsilon="layer_norm_eps", default_epsilon=1e-5, square=True)
ROWS = (ENDS[0], *ATTENTION, *MLP)

SPELLINGS = {  # of AI2's own code
    "hidden_size": "d_model",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "intermediate_size": "mlp_hidden_size",
    "max_position_embeddings": "max_sequence_length",
    "tie_word_embeddings": "weight_tying",
    "vocab_size": "embedding_size",
}
OWN = "model.transformer.blocks"
OWN_ROWS: tuple[TensorRule, ...] = (
    ("model.transformer.wte.weight", "token_embd.weight", ("vocab", "hidden")),
    (f"{OWN}.{{i}}.attn_out.weight", f"{B}.attn_output.weight", ("hidden", "q")),
    (f"{OWN}.{{i}}.ff_proj.weight", (f"{B}.ffn_up.weight", f"{B}.ffn_gate.weight"), ("ffn+ffn", "hidden")),
    (f"{OWN}.{{i}}.ff_out.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)
OWN_HEAD: TensorRule = ("model.transformer.ff_out.weight", "output.weight", ("vocab", "hidden"))
FIXED = {
    "activation_type": "swiglu",
    "alibi": False,
    "attention_layer_norm": False,
    "block_type": "sequential",
    "include_bias": False,
    "layer_norm_type": "default",
    "layer_norm_with_affine": False,
    "multi_query_attention": False,
    "rope": True,
    "scale_logits": False,
}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    if config.has("d_model"):
        return _of_ai2(config)
    decoder = read_decoder(config, GRAPH)
    config.require("attention_bias", False, "llama.cpp's olmo graph has no biases")
    config.require("layer_norm_eps", 1e-5, "transformers' norms have no other")
    return decoder_spec(decoder, ROWS, _clip(config), side_by_side(decoder))


def _clip(config: Config) -> list[Field]:
    if not config.has("clip_qkv"):
        return []
    return [Field.float32("olmo.attention.clamp_kqv", config.number("clip_qkv"))]


def _of_ai2(config: Config) -> GraphSpec:
    """A checkpoint of AI2's own code: q, k and v in one matrix, up and gate in another."""
    config = config.spelled(**SPELLINGS)
    halves = config.size("mlp_hidden_size") if config.has("mlp_hidden_size") else 0
    width = halves or config.size("mlp_ratio", 4) * config.size("d_model")
    decoder = read_decoder(replace(config, values={**config.values, "mlp_hidden_size": width // 2}), GRAPH)
    for key, wanted in FIXED.items():
        config.require(key, wanted, "llama.cpp's olmo graph has no other")
    extra = Extra(head=OWN_HEAD, tensors=[_together(decoder, i) for i in range(decoder.layers)])
    return decoder_spec(decoder, OWN_ROWS, _clip(config), extra=extra)


def _together(decoder: Decoder, layer: int) -> SourceTensor:
    """q, k and v of a layer, of which two have rotary pairs."""
    sizes = decoder.sizes
    turning = {"q": pairs_together(decoder.heads), "k": pairs_together(decoder.kv_heads), "v": None}
    outputs, start = [], 0
    for name, pairs in turning.items():
        rows = sizes["q" if name == "q" else "kv"]
        view = _rows(slice(start, start + rows), pairs)
        outputs.append(OutputTensor(f"blk.{layer}.attn_{name}.weight", (rows, decoder.hidden), view))
        start += rows
    return SourceTensor(f"{OWN}.{layer}.att_proj.weight", (start, decoder.hidden), tuple(outputs))


def _rows(place: slice, pairs: View | None) -> View:
    return lambda values: values[place] if pairs is None else pairs(values[place])


FAMILY = Family(
    name="olmo",
    title="OLMo 1",
    classes=("OlmoForCausalLM", "OLMoForCausalLM"),
    text=text,
)
