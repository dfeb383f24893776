"""DeciLM, and what NVIDIA searched out of Llama (Nemotron Super, Ultra, 51B): Llama's layers, each with its own number
of key and value heads and its own width, some without attention or without an MLP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, SourceTensor, TensorRule, Transform, expand
from convert.architectures._layers import HEADS, KV_HEADS, WIDTHS, listed
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS, B, L
from convert.architectures.llama import pairs_together
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("deci", default_epsilon=1e-5, rotary=Rotary(("llama3",)), square=True)
LINEAR: TensorRule = (f"{L}.self_attn.linear_attn.weight", f"{B}.attn_output.weight", ("hidden", "hidden"))
MULTIPLE = 256  # that widths are rounded up to
NO_OTHER = "llama.cpp's deci graph has no other"


@dataclass(frozen=True)
class Block:
    """What a layer has."""

    kv_heads: int  # 0: no attention
    ffn: int  # 0: no MLP
    linear: bool = False  # a matrix in place of attention


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    searched = config.has("block_configs")
    # transformers' names for what each layer says itself
    own = {"intermediate_size": 1, "num_key_value_heads": None} if searched else {"num_key_value_heads": None}
    decoder = read_decoder(replace(config, values={**values, **own}), GRAPH)
    for key in ("attention_bias", "mlp_bias"):
        config.require(key, False, "llama.cpp's deci graph has no biases")
    blocks = _searched(config, decoder) if searched else _by_heads(config, decoder)
    fields = [
        *(head_size_fields(decoder) if searched else []),
        Field.uint32("deci.vocab_size", decoder.vocab),
        Field.uint32("deci.rope.dimension_count", decoder.head_dim),
    ]
    spec = decoder_spec(decoder, ENDS, fields, extra=Extra(tensors=_tensors(decoder, blocks)))
    numbers = {KV_HEADS: [block.kv_heads for block in blocks]}
    if searched:
        heads = [decoder.heads if block.kv_heads or block.linear else 0 for block in blocks]
        numbers |= {HEADS: heads, WIDTHS: [block.ffn for block in blocks]}
    return replace(spec, fields=tuple(listed(spec.fields, numbers)))


def _by_heads(config: Config, decoder: Decoder) -> list[Block]:
    """DeciLM 7B: every layer has attention and an MLP of one width."""
    heads = config.sizes("num_key_value_heads_per_layer")
    if len(heads) != decoder.layers or any(not n or decoder.heads % n for n in heads):
        got = config.values.get("num_key_value_heads_per_layer")
        wanted = f"a divisor of num_attention_heads, {decoder.heads}, for each of {decoder.layers} layers"
        config.complain("num_key_value_heads_per_layer", got, wanted)
        heads = (1,) * decoder.layers
    return [Block(n, decoder.ffn) for n in heads]


def _searched(config: Config, decoder: Decoder) -> list[Block]:
    """What block_configs says of each layer."""
    given = config.values.get("block_configs")
    if not isinstance(given, list) or len(given) != decoder.layers or not all(isinstance(b, Mapping) for b in given):
        config.complain("block_configs", given, f"an object for each of {decoder.layers} layers")
        return [Block(1, 1)] * decoder.layers
    return [
        _block(Config(one, f"{config.where}: block_configs[{i}]", config.problems), decoder)
        for i, one in enumerate(given)
    ]


def _block(said: Config, decoder: Decoder) -> Block:
    attention, ffn = said.sub("attention"), said.sub("ffn")
    for key in ("num_sink_tokens", "sparsify", "window_length"):
        attention.require(key, None, NO_OTHER)
    for key in ("replace_with_linear", "sparsify"):
        if ffn.values.get(key):
            ffn.complain(key, ffn.values[key], "nothing", NO_OTHER)
    group = attention.size("n_heads_in_group", decoder.heads) if attention.has("n_heads_in_group") else 0
    if group and decoder.heads % group:
        attention.complain("n_heads_in_group", group, f"a divisor of num_attention_heads, {decoder.heads}")
    factor = ffn.number("ffn_mult") if ffn.has("ffn_mult") else 0.0
    width = int(2 * factor * decoder.hidden / 3)
    block = Block(
        decoder.heads // group if group else 0,
        width + -width % MULTIPLE,
        not group and attention.flag("replace_with_linear"),
    )
    if not block.ffn and (block.kv_heads or block.linear):
        ffn.complain("ffn_mult", None, "a number", "llama.cpp takes no attention from a layer without an MLP")
    return block


def _tensors(decoder: Decoder, blocks: list[Block]) -> Iterator[SourceTensor]:
    for i, block in enumerate(blocks):
        sizes = {**decoder.sizes, "kv": block.kv_heads * decoder.head_dim, "ffn": block.ffn}
        transforms = {
            "q": Transform(pairs_together(decoder.heads)),
            "k": Transform(pairs_together(max(1, block.kv_heads))),
        }
        rows: list[TensorRule] = []
        if block.kv_heads or block.linear:
            rows += [NORMS[0], *(ATTENTION if block.kv_heads else [LINEAR])]
        if block.ffn:
            rows += [NORMS[1], *MLP]
        yield from expand(rows, sizes, transforms, [i])


FAMILY = Family(
    name="deci",
    title="DeciLM, and Llama-Nemotron Super, Ultra and 51B",
    classes=("DeciLMForCausalLM",),
    text=text,
    graphs="",
)
