"""Experts: their numbers, checked. Their rows are in _rows (ROUTER, EXPERTS) or the family's own."""

from __future__ import annotations

from dataclasses import dataclass

from convert.architectures._decoder import Decoder
from convert.architectures._graph_spec import Packed, Transform
from convert.gguf_field import Field
from quantize.mxfp4 import repack

MAX_EXPERTS = 1024  # llama.cpp, LLAMA_MAX_EXPERTS
MAX_MATRICES = 1 << 17  # of all layers' experts; the largest models of the field have some 36,000

MXFP4 = Packed("MXFP4", 2, repack, 32)
MXFP4_TRANSFORMS = {"blocks": Transform(packed=MXFP4, operand=0), "scales": Transform(packed=MXFP4, operand=1)}
"""For tensors called …_blocks (experts, rows, blocks, 16 bytes) and …_scales (experts, rows, blocks)."""


@dataclass(frozen=True)
class Experts:
    """The numbers of a layer's experts, checked."""

    count: int
    used: int  # for a token
    ffn: int  # width of one


def read_experts(decoder: Decoder, *, count: str = "num_experts", ffn: str = "moe_intermediate_size") -> Experts:
    """The experts; the config's keys for their number and width are `count` and `ffn`.

    Where they are so many that their tables alone would fill the memory, raises PlanError.
    """
    config = decoder.config
    number = config.size(count, most=MAX_EXPERTS)
    used = config.size("num_experts_per_tok", most=MAX_EXPERTS)
    if used > number:
        config.complain("num_experts_per_tok", used, f"at most {config.key(count)}, {number}")
    if 3 * number * decoder.layers > MAX_MATRICES:
        got = f"{decoder.layers} with {number} experts each"
        config.complain("num_hidden_layers", got, f"at most {MAX_MATRICES} matrices of experts")
        config.refuse()
    experts = Experts(number, used, config.size(ffn))
    config.finish()
    return experts


def expert_fields(decoder: Decoder, experts: Experts, *, width: bool = True) -> list[Field]:
    """The hyper-parameters of experts; `width` says theirs apart from feed_forward_length."""
    prefix = decoder.graph.name
    fields = [
        Field.uint32(f"{prefix}.expert_count", experts.count),
        Field.uint32(f"{prefix}.expert_used_count", experts.used),
    ]
    return [*fields, *((Field.uint32(f"{prefix}.expert_feed_forward_length", experts.ffn),) if width else ())]


def with_experts(decoder: Decoder, experts: Experts) -> Decoder:
    """The decoder with the dimensions that rows of experts name."""
    return decoder.having(experts=experts.count, expert_ffn=experts.ffn)
