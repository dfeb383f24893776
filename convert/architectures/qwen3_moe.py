"""Qwen3-MoE: Qwen3 with a router and experts in every layer.

A checkpoint has every expert's three matrices apart (transformers 5 joins them only in memory); a GGUF file has one
tensor of all experts for each of the three.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from convert.architectures._config import Config
from convert.architectures._decoder import (
    QUERY_KEY,
    QUERY_KEY_NORM,
    decoder_part,
    head_size_fields,
    read_decoder,
)
from convert.architectures._part import Part, Target, Wanted
from convert.gguf.fields import Field

CLASSES = ("Qwen3MoeForCausalLM",)

MAX_EXPERTS = 1024  # llama.cpp, LLAMA_MAX_EXPERTS
MAX_MATRICES = 1 << 17  # of all layers' experts; the largest models of the field have some 36,000


@dataclass(frozen=True)
class Experts:
    """The numbers of a layer's experts, checked."""

    count: int
    used: int  # for a token
    ffn: int  # width of one


def text(values: Mapping[str, Any]) -> Part:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(Config({"head_dim": 128, **values}, config.where, config.problems))
    if config.flag("attention_bias"):
        config.complain("attention_bias", True, "false", "llama.cpp's qwen3moe graph has no output bias")
    experts = _read_experts(config)
    if 3 * experts.count * decoder.layers > MAX_MATRICES:
        got = f"{decoder.layers} with {experts.count} experts each"
        config.complain("num_hidden_layers", got, f"at most {MAX_MATRICES} matrices of experts")
    config.finish()
    fields = [
        *head_size_fields(decoder, "qwen3moe"),
        Field.uint32("qwen3moe.expert_count", experts.count),
        Field.uint32("qwen3moe.expert_used_count", experts.used),
        Field.uint32("qwen3moe.expert_feed_forward_length", experts.ffn),
    ]
    part = decoder_part(decoder, "qwen3moe", (*QUERY_KEY, *QUERY_KEY_NORM), fields)
    layers = (w for layer in range(decoder.layers) for w in _layer(layer, decoder.hidden, experts))
    return replace(part, wanted=(*part.wanted, *layers))


def _read_experts(config: Config) -> Experts:
    """The experts; adds a problem for what llama.cpp's graph takes for granted and the config has otherwise."""
    # transformers 5 writes num_local_experts
    spelling = "num_local_experts" if config.has("num_local_experts") else "num_experts"
    count = config.size(spelling, most=MAX_EXPERTS)
    used = config.size("num_experts_per_tok", most=MAX_EXPERTS)
    if used > count:
        config.complain("num_experts_per_tok", used, f"at most {spelling}, {count}")
    if not config.flag("norm_topk_prob"):
        config.complain("norm_topk_prob", False, "true", "llama.cpp's qwen3moe graph always normalizes")
    if config.size("decoder_sparse_step", 1) != 1:
        got = config.values["decoder_sparse_step"]
        config.complain("decoder_sparse_step", got, "1", "llama.cpp's qwen3moe graph has experts in every layer")
    if dense := config.sizes("mlp_only_layers", ()):
        config.complain("mlp_only_layers", list(dense), "[]", "llama.cpp's qwen3moe graph has experts in every layer")
    return Experts(count, used, config.size("moe_intermediate_size"))


def _layer(layer: int, hidden: int, experts: Experts) -> Iterator[Wanted]:
    """The router and the experts of a layer."""
    source, name = f"model.layers.{layer}.mlp", f"blk.{layer}.ffn"
    router = (experts.count, hidden)
    yield Wanted(f"{source}.gate.weight", router, (Target(f"{name}_gate_inp.weight", router),))
    wide, narrow = (experts.ffn, hidden), (hidden, experts.ffn)
    for which, shape in (("gate", wide), ("up", wide), ("down", narrow)):
        for place in range(experts.count):
            target = Target(f"{name}_{which}_exps.weight", (experts.count, *shape), place=place)
            yield Wanted(f"{source}.experts.{place}.{which}_proj.weight", shape, (target,))
