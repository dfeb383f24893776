"""OpenELM: heads and MLPs grow from layer to layer; norms on queries and keys, q, k and v in one matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from convert.architectures._config import MAX_LAYERS, Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, SourceTensor, TensorRule, expand
from convert.architectures._layers import HEADS, KV_HEADS, WIDTHS, listed
from convert.architectures._rope import Rotary
from convert.architectures._rows import B
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph(
    "openelm",
    default_epsilon=1e-6,
    activations=("swish", "silu"),
    activation="activation_fn_name",
    rotary=Rotary(()),
    tied=True,
)
SPELLINGS = {
    "hidden_size": "model_dim",
    "num_hidden_layers": "num_transformer_layers",
    "max_position_embeddings": "max_context_length",
    "rope_theta": "rope_freq_constant",
    "tie_word_embeddings": "share_input_output_layers",
}
H = "transformer.layers.{i}"
ENDS: tuple[TensorRule, ...] = (
    ("transformer.token_embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
    ("transformer.norm.weight", "output_norm.weight", ("hidden",)),
)
LAYERS: tuple[TensorRule, ...] = (
    (f"{H}.attn_norm.weight", f"{B}.attn_norm.weight", ("hidden",)),
    (f"{H}.ffn_norm.weight", f"{B}.ffn_norm.weight", ("hidden",)),
    (f"{H}.attn.qkv_proj.weight", f"{B}.attn_qkv.weight", ("q+kv+kv", "hidden")),
    (f"{H}.attn.q_norm.weight", f"{B}.attn_q_norm.weight", ("head",)),
    (f"{H}.attn.k_norm.weight", f"{B}.attn_k_norm.weight", ("head",)),
    (f"{H}.attn.out_proj.weight", f"{B}.attn_output.weight", ("hidden", "q")),
    (f"{H}.ffn.proj_1.weight", (f"{B}.ffn_gate.weight", f"{B}.ffn_up.weight"), ("ffn+ffn", "hidden")),
    (f"{H}.ffn.proj_2.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)
FIXED = ("ffn_with_glu", "normalize_qk_projections", "share_input_output_layers")


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).spelled(**SPELLINGS)
    number = config.size("num_hidden_layers", most=MAX_LAYERS)
    heads, kv_heads = (_of_layers(config, key, number) for key in ("num_query_heads", "num_kv_heads"))
    widths = _widths(config, number)
    most = {"num_attention_heads": max(heads), "num_key_value_heads": 1, "intermediate_size": max(widths)}
    if any(queries % keys for queries, keys in zip(heads, kv_heads, strict=True)):
        config.complain("num_kv_heads", list(kv_heads), "a divisor of num_query_heads in each layer")
    decoder = read_decoder(replace(config, values={**config.values, **most}), GRAPH)
    for key in FIXED:
        config.require(key, True, "llama.cpp's openelm graph has no other")
    fields = [*head_size_fields(decoder), Field.uint32("openelm.rope.dimension_count", decoder.head_dim)]
    tensors = _tensors(decoder, heads, kv_heads, widths)
    spec = decoder_spec(decoder, ENDS, fields, extra=Extra(tensors=tensors))
    return replace(spec, fields=tuple(listed(spec.fields, {WIDTHS: widths, HEADS: heads, KV_HEADS: kv_heads})))


def _of_layers(config: Config, key: str, layers: int) -> Sequence[int]:
    """A number for each layer, none of them 0."""
    numbers = config.sizes(key)
    if len(numbers) != layers or not all(numbers):
        config.complain(key, config.values.get(key), f"a list of {layers} numbers above 0")
        return [1] * layers
    return numbers


def _widths(config: Config, layers: int) -> list[int]:
    """The width of each MLP, as OpenELM's own code rounds it."""
    hidden, divisor = config.size("hidden_size"), config.size("ffn_dim_divisor", 256)
    return [_rounded(factor * hidden, divisor) for factor in config.numbers("ffn_multipliers", layers)]


def _rounded(width: float, divisor: int) -> int:
    """The nearest multiple of the divisor, one more where that is less than nine tenths."""
    nearest = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * width else nearest


def _tensors(
    decoder: Decoder, heads: Sequence[int], kv_heads: Sequence[int], widths: Sequence[int]
) -> Iterator[SourceTensor]:
    for i, (queries, keys, width) in enumerate(zip(heads, kv_heads, widths, strict=True)):
        head = decoder.head_dim
        sizes = {**decoder.sizes, "q": queries * head, "kv": keys * head, "ffn": width}
        yield from expand(LAYERS, sizes, layers=[i])


FAMILY = Family(
    name="openelm",
    title="OpenELM",
    classes=("OpenELMForCausalLM",),
    text=text,
    graphs="",
)
