from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests import tiny
from tests.parity.build import QWEN, SIZES, build, with_token
from tests.parity.checkpoints.deepseek2 import BY_BYTES, GLM_ROLES
from tests.parity.experts import SCALES, corrected
from tests.parity.families import Case

HUB = corrected(".mlp.gate.e_score_correction_bias")
WORDS = replace(  # tokens that upstream's converter looks for
    QWEN, tokenizer=lambda: with_token(with_token(tiny.qwen_tokenizer(496), "<unk>"), "<|startoftext|>")
)


def solar_open(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["SolarOpenForCausalLM"],
        "model_type": "solar_open",
        "hidden_act": "silu",
        "head_dim": 24,
        "attention_bias": False,
        "first_k_dense_replace": 0,
        "moe_intermediate_size": 48,
        "n_routed_experts": 6,
        "n_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.5,
        "partial_rotary_factor": 1.0,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000,
        "rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64},
        "tie_word_embeddings": False,
        "use_qk_norm": False,
    }
    return build(folder, WORDS, config | words, hub=HUB, scales=SCALES)


CASES = {"": Case(solar_open, allowed=GLM_ROLES | BY_BYTES)}
