"""What is quantized, what is kept, and how each reader is told."""

from __future__ import annotations

import re

import pytest

from quantize import awq_layout, gptq_layout

SHAPES = {
    "model.layers.0.self_attn.q_proj": (64, 64),
    "model.layers.0.self_attn.qkv_proj": (128, 64),
    "model.layers.1.mlp.gate_up_proj": (256, 64),
    "model.language_model.layers.2.mlp.down_proj": (64, 128),
    "lm_head": (512, 64),
    "model.layers.0.mlp.gate": (8, 64),
    "visual.blocks.0.attn.qkv": (192, 64),
    "model.visual.blocks.0.mlp.gate_proj": (300, 64),
    "visual.merger.mlp.0": (256, 256),
    "vision_tower.encoder.layers.0.self_attn.q_proj": (64, 64),
}


LINEARS = set(list(SHAPES)[:4])
TOWERS = ("vision_tower", "visual")


def test_the_linears_are_taken_in_the_checkpoints_order_and_nothing_else() -> None:
    decision = gptq_layout.decide(SHAPES, LINEARS)
    assert decision.quantized == tuple(SHAPES)[:4]
    assert decision.kept == tuple(SHAPES)[4:]
    assert decision.layers == 3


def readers(kept: tuple[str, ...]) -> dict[str, bool]:
    """Reader -> whether it leaves every kept module of the list alone, by the rule each documents."""
    towers = tuple(tower for tower in TOWERS if any(tower in name.split(".") for name in kept))
    words, patterns = gptq_layout.exclusions(towers), gptq_layout.dynamic(towers)

    def transformers(name: str) -> bool:  # quantizers_utils.should_convert_module: from the start, to a boundary
        return any(re.match(rf"(?:{w})(?:(?<=\.)|(?=\.|$))", name) or name.endswith(w) for w in words)

    def vllm_awq(name: str) -> bool:  # quant_utils.is_layer_skipped(skip_with_substr=True)
        return any(word in name for word in words)

    def vllm_gptq(name: str) -> bool:  # gptq_utils.get_dynamic_override; the head goes by `lm_head: false`
        return name == gptq_layout.HEAD or any(re.match(p.removeprefix("-:"), name) for p in patterns)

    rules = {"transformers": transformers, "vllm_awq": vllm_awq, "vllm_gptq": vllm_gptq}
    return {reader: all(map(rule, kept)) for reader, rule in rules.items()}


@pytest.mark.parametrize(
    "kept",
    [
        ("visual.blocks.0.attn.qkv", "visual.merger.mlp.0", "lm_head"),  # vLLM's names, and the hub's
        ("model.visual.blocks.0.attn.qkv", "model.visual.merger.mlp.0", "lm_head"),  # transformers 5 and gptqmodel
        ("lm_head",),
    ],
)
def test_every_reader_finds_what_is_not_converted(kept: tuple[str, ...]) -> None:
    assert readers(kept) == {"transformers": True, "vllm_awq": True, "vllm_gptq": True}


def test_no_reader_leaves_out_a_matrix_that_is_quantized() -> None:
    decision = gptq_layout.decide(SHAPES, LINEARS)
    for name in decision.quantized:
        assert not any(readers((name,)).values()) or name in decision.kept
        assert not any(word in name for word in gptq_layout.exclusions(TOWERS))
        assert not any(re.match(p.removeprefix("-:"), name) for p in gptq_layout.dynamic(TOWERS))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_tensors_have_autogptqs_shapes(bits: int) -> None:
    assert gptq_layout.packed((64, 128), bits, 32, bias=True) == {
        "bias": ("F16", (64,)),
        "g_idx": ("I32", (128,)),
        "qweight": ("I32", (128 * bits // 32, 64)),
        "qzeros": ("I32", (4, 64 * bits // 32)),
        "scales": ("F16", (4, 64)),
    }


def test_awq_tensors_have_autoawqs_shapes() -> None:
    """As vLLM allocates them to load AutoAWQ's checkpoints (awq.py, AWQLinearMethod.create_weights): inputs first."""
    assert awq_layout.packed((768, 256), 4, 128, bias=False) == {
        "qweight": ("I32", (256, 96)),
        "qzeros": ("I32", (2, 96)),
        "scales": ("F16", (2, 768)),
    }


@pytest.mark.parametrize(
    ("shape", "group_size", "said"),
    [
        ((64, 96), 64, "96 input columns, which is not a multiple of group_size 64"),
        ((40, 64), 32, "multiples of 32"),
        ((64, 96), -1, ""),
    ],
)
def test_what_cannot_be_packed_is_said(shape: tuple[int, int], group_size: int, said: str) -> None:
    assert said in gptq_layout.unsuitable(shape, group_size)
    assert bool(said) == bool(gptq_layout.unsuitable(shape, group_size))
