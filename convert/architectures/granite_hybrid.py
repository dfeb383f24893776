"""Granite 4: layers of Mamba 2 and some of attention, with Granite's multipliers; an MLP, and experts or none.

Where all layers attend it is a Granite or a Granite-MoE to llama.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from convert.architectures._config import Config
from convert.architectures._decoder import NO_POSITIONS, Decoder, Extra, Graph, decoder_spec, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule, Transform, View, expand
from convert.architectures._rows import ATTENTION, ENDS, NORMS, B, L, biases
from convert.architectures._state_space import mamba2_rows, read_mamba2
from convert.architectures.granitemoe import EXPERTS, MULTIPLIERS, SHARED
from convert.architectures.llama import side_by_side
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("granitehybrid", default_epsilon=1e-6, square=True)
DEFAULTS = {  # transformers' own where the config is silent
    "mamba_n_heads": 128,
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_expand": 2,
    "num_local_experts": 0,  # transformers' is 8, but every published config says it; what all of the family have
    "num_experts_per_tok": 2,
    "shared_intermediate_size": 1024,
}
WORDS = {"mamba": False, "linear_attention": False, "attention": True, "full_attention": True}  # attends
MLP: tuple[TensorRule, ...] = (
    (
        f"{L}.shared_mlp.input_linear.weight",
        (f"{B}.ffn_gate.weight", f"{B}.ffn_up.weight"),
        ("ffn+ffn", "hidden"),
    ),
    (f"{L}.shared_mlp.output_linear.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(**DEFAULTS)
    experts = config.size("num_local_experts", least=0)
    layers = config.size("num_hidden_layers", most=512)
    attends = [WORDS[word] for word in config.words("layer_types", layers, tuple(WORDS))] or [
        True
    ] * layers  # always said
    name = GRAPH.name if not all(attends) else "granitemoe" if experts else "granite"
    decoder = read_decoder(config, replace(GRAPH, name=name))
    rows = (*ENDS, *NORMS, *(EXPERTS if experts else ()), *(SHARED if experts else MLP))
    decoder, fields = _feed_forward(decoder, experts)
    kind = config.word("position_embedding_type", "nope", ("nope", "rope"), "transformers has no other for it")
    if kind == "rope" and not all(attends):
        config.complain("position_embedding_type", kind, "nope", "upstream's files of such models have no positions")
    fields += [Field.float32(f"{name}.{key}", config.number(word, 1.0)) for word, key in MULTIPLIERS.items()]
    return hybrid_spec(decoder, attends, rows, fields, rope=kind == "rope")


def _feed_forward(decoder: Decoder, experts: int) -> tuple[Decoder, list[Field]]:
    """The decoder with the sizes of its MLP and experts, and their fields."""
    config, name = decoder.config, decoder.graph.name
    shared = config.size("shared_intermediate_size")
    field = Field.uint32(f"{name}.expert_shared_feed_forward_length", shared)
    if experts:
        found = read_experts(decoder, count="num_local_experts", ffn="intermediate_size")
        return with_experts(decoder, found).having(shared=shared), [
            *expert_fields(decoder, found, width=False),
            field,
        ]
    if shared != decoder.ffn:
        config.complain("shared_intermediate_size", shared, f"intermediate_size, {decoder.ffn}")
    used = config.size("num_experts_per_tok", least=0)
    return decoder, [
        Field.uint32(f"{name}.expert_count", 0),
        Field.uint32(f"{name}.expert_used_count", used),
        field,
    ]


def hybrid_spec(
    decoder: Decoder, attends: Sequence[bool], rows: Sequence[TensorRule], fields: Sequence[Field], *, rope: bool
) -> GraphSpec:
    """A decoder whose layers attend or are of Mamba 2; `rows` are in all of them."""
    config, name = decoder.config, decoder.graph.name
    expand_by = config.size("mamba_expand")
    if not all(attends):
        config.require("mamba_expand", 2, "llama.cpp's granitehybrid graph has no other width")
    mamba = read_mamba2(config, expand_by * decoder.hidden)
    decoder = decoder.having(**mamba.sizes)
    attention = (*ATTENTION, *(biases(ATTENTION) if config.flag("attention_bias") else ()))
    tensors = (
        *expand(attention, decoder.sizes, _turned(decoder), _numbers(attends, True)),
        *expand(mamba2_rows(f"{L}.mamba"), decoder.sizes, mamba.transforms, _numbers(attends, False)),
    )
    all_fields = [
        Field.uint32(f"{name}.vocab_size", decoder.vocab),
        Field.uint32(f"{name}.rope.dimension_count", decoder.rope.dimensions if decoder.rope else 0),
        Field.int32s(f"{name}.attention.head_count_kv", [decoder.kv_heads if one else 0 for one in attends]),
        Field.boolean(f"{name}.rope.scaling.finetuned", rope),  # llama.cpp turns heads only where this is true
        *([] if rope else [Field.uint32(f"{name}.context_length", NO_POSITIONS)]),
        *mamba.fields(name),
        *fields,
    ]
    return decoder_spec(decoder, rows, all_fields, extra=Extra(tensors=tensors))


def _turned(decoder: Decoder) -> dict[str, Transform]:
    """The transforms of q_proj and k_proj, of whose heads the first values turn, or all."""
    assert decoder.rope is not None
    turning, size = decoder.rope.dimensions, decoder.head_dim
    if turning == size:
        return side_by_side(decoder)

    def some(heads: int) -> View:
        def view(weight: np.ndarray) -> np.ndarray:
            by_head = weight.reshape(heads, size, -1)
            pairs = by_head[:, :turning].reshape(heads, 2, turning // 2, -1).swapaxes(1, 2)
            return np.concatenate([pairs.reshape(heads, turning, -1), by_head[:, turning:]], 1)

        return view

    return {"q": Transform(some(decoder.heads)), "k": Transform(some(decoder.kv_heads))}


def _numbers(attends: Sequence[bool], kind: bool) -> list[int]:
    return [i for i, one in enumerate(attends) if one is kind]


FAMILY = Family(
    name="granite_hybrid",
    title="Granite 4",
    classes=("GraniteMoeHybridForCausalLM",),
    text=text,
)
