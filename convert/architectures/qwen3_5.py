"""Qwen3.5: gated delta nets and, in every fourth layer, gated attention with positions on interleaved axes."""

from __future__ import annotations

from collections.abc import Iterable

from convert.architectures import _qwen_vision as qwen
from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, read_decoder
from convert.architectures._delta_net import (
    ALWAYS,
    ATTENTION,
    DEFAULTS,
    DRAFTS,
    LN,
    RECURRENT,
    check_attention,
    delta_net_fields,
    of_state_space,
    read_delta_net,
    tiling,
    with_delta_net,
)
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, LeftOut, TensorRule, expand
from convert.architectures._rope import Rotary
from convert.architectures._rows import MLP, B
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("qwen35", rotary=Rotary(partial=0.25))
SECTIONS = (11, 11, 10, 0)  # transformers' own where the config is silent, and always four in the file
PROJECTIONS: tuple[TensorRule, ...] = (
    (f"{LN}.in_proj_qkv.weight", f"{B}.attn_qkv.weight", ("mixed", "hidden"), "mixed"),
    (f"{LN}.in_proj_z.weight", f"{B}.attn_gate.weight", ("value", "hidden"), "values"),
    (f"{LN}.in_proj_b.weight", f"{B}.ssm_beta.weight", ("value_heads", "hidden"), "heads"),
    (f"{LN}.in_proj_a.weight", f"{B}.ssm_alpha.weight", ("value_heads", "hidden"), "heads"),
)
TOWER = LeftOut("", "the vision tower, which no table here describes yet", prefix="visual.")


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    return hybrid_spec(read_decoder(text_config(values), GRAPH), MLP)


def text_config(values: JsonObject) -> Config:
    """The language model's config, at the top or under text_config, with transformers' defaults."""
    return qwen.text_config(values).with_defaults(**DEFAULTS)


def hybrid_spec(decoder: Decoder, mlp: Iterable[TensorRule], fields: Iterable[Field] = ()) -> GraphSpec:
    """A decoder of both kinds of layers with these rows of MLPs or experts, and their fields."""
    check_attention(decoder.config)
    net = read_delta_net(decoder.config, decoder.layers)
    decoder = with_delta_net(decoder, net)
    transforms = tiling(net)
    tensors = (
        *expand(ATTENTION, decoder.sizes, transforms, net.layers(recurrent=False)),
        *of_state_space(
            expand((*RECURRENT, *PROJECTIONS), decoder.sizes, transforms, net.layers(recurrent=True)),
        ),
    )
    all_fields = [*delta_net_fields(decoder, net), *_sections(decoder), *fields]
    return decoder_spec(
        decoder, (*ALWAYS, *mlp), all_fields, transforms, Extra(tensors=tensors, left_out=[DRAFTS, TOWER])
    )


def _sections(decoder: Decoder) -> list[Field]:
    """How many frequencies turn with time, height and width, where the config does not say it."""
    assert decoder.rope is not None
    rope = decoder.rope
    rope.values.require("mrope_interleaved", True, "llama.cpp's graph has no other order of frequencies")
    if not rope.sections:
        return [Field.int32s(f"{decoder.graph.name}.rope.dimension_sections", SECTIONS)]
    if len(rope.sections) > 4 or sum(rope.sections) * 2 != rope.dimensions:
        wanted = f"up to four numbers that add up to half of what turns of a head, {rope.dimensions // 2}"
        rope.values.complain("mrope_section", list(rope.sections), wanted)
    return []


FAMILY = Family(
    name="qwen3_5",
    title="Qwen3.5",
    classes=("Qwen3_5ForCausalLM",),
    text=text,
    renames=qwen.RENAMES,
    graphs="",
)
