from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SHARP, SIZES, Hub, Tensors, build, same
from tests.parity.families import Case

FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
SCALES = {**SHARP, "_proj.bias": 4, "sinks": 20, "router.weight": 8, "router.bias": 4, "experts.down_proj": 2}
SCALES |= {"gate_up_proj": 4, "_proj_bias": 8}
OTHERWISE = {
    "order of tensors": "ours is that of the bytes; upstream writes the blocks first",
    "general.file_type": "the one asked for; upstream says MXFP4_MOE of all such files",
}
EIGHT_BITS = "llama.cpp rounds what it multiplies with MXFP4 to 8 bits"


def in_blocks(name: str, values: Any) -> Tensors:
    """Experts in MXFP4, as OpenAI has them: 32 values of 4 bits share an exponent."""
    import torch

    if not name.endswith(("gate_up_proj", "down_proj")):
        return {name: values}
    blocks = values.float().transpose(1, 2).unflatten(2, (-1, 32))
    exponents = torch.floor(torch.log2(blocks.abs().amax(-1) / 4))
    levels = torch.tensor([*FP4, *(-v for v in FP4)])
    codes = (blocks / 2 ** exponents[..., None]).unsqueeze(-1).sub(levels).abs().argmin(-1).to(torch.uint8)
    packed = codes[..., 0::2] | codes[..., 1::2] << 4
    return {f"{name}_blocks": packed.contiguous(), f"{name}_scales": (exponents + 127).to(torch.uint8)}


def gpt_oss(folder: Path, hub: Hub = same, scales: Mapping[str, float] = SCALES, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "hidden_act": "silu",
        "head_dim": 16,
        "attention_bias": True,
        "intermediate_size": 96,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "experts_per_token": 2,
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 24,
        "swiglu_limit": 7.0,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10765,  # the range of frequencies ends at 1.99999 of 8: rounding it outwards changes little
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 8.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 64,
        },
        "tie_word_embeddings": False,
        "quantization_config": {
            "quant_method": "mxfp4",
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
        },
    }
    if hub is same:
        del config["quantization_config"]
    return build(folder, QWEN, config | words, hub=hub, scales=scales)


def one_layer_in_blocks(folder: Path) -> Path:
    """All experts chosen: behind what is rounded, choices and attention would make more of the difference."""
    every = {"num_experts_per_tok": 6, "experts_per_token": 6}
    scales = {**SCALES, "gate_up_proj": 1, "experts.down_proj": 0.5}
    return gpt_oss(folder, in_blocks, scales, num_hidden_layers=1, layer_types=["sliding_attention"], **every)


CASES = {
    "": Case(one_layer_in_blocks, 2e-2, EIGHT_BITS, allowed=OTHERWISE),
    "in 16 bits": Case(gpt_oss),
}
