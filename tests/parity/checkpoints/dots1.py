from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, build
from tests.parity.checkpoints.deepseek2 import BY_BYTES
from tests.parity.experts import SCALES, corrected
from tests.parity.families import Case

HUB = corrected(".mlp.gate.e_score_correction_bias")


def dots1(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["Dots1ForCausalLM"],
        "model_type": "dots1",
        "attention_bias": False,
        "hidden_act": "silu",
        "head_dim": 24,
        "num_hidden_layers": 3,
        "num_key_value_heads": 4,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 48,
        "n_routed_experts": 8,
        "n_shared_experts": 2,
        "num_experts_per_tok": 2,
        "n_group": 4,
        "topk_group": 2,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000000,
        "sliding_window": None,
        "tie_word_embeddings": False,
    }
    return build(folder, QWEN, config | words, hub=HUB, scales=SCALES)


CASES = {
    "": Case(dots1, allowed=BY_BYTES),
    "one group, not normalized": Case(
        lambda folder: dots1(folder, n_group=1, topk_group=1, norm_topk_prob=False), allowed=BY_BYTES
    ),
}
