from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, build
from tests.parity.experts import SCALES
from tests.parity.families import Case


def north(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["Cohere2MoeForCausalLM"],
        "model_type": "cohere2_moe",
        "attention_bias": False,
        "expert_selection_fn": "sigmoid",
        "head_dim": 24,
        "hidden_act": "silu",
        "intermediate_size": 48,
        "layer_norm_eps": 1e-5,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
        "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
        "first_k_dense_replace": 1,
        "logit_scale": 0.25,
        "norm_topk_prob": True,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 4,
        "num_shared_experts": 2,
        "prefix_dense_intermediate_size": 128,
        "prefix_dense_sliding_window_pattern": 1,
        "rope_theta": 50000,
        "shared_expert_combination_strategy": "average",
        "sliding_window": 24,
        "tie_word_embeddings": True,
    }
    return build(folder, QWEN, config | words, scales={**SCALES, "embed_tokens.weight": 20})


CASES = {
    "": Case(north),
    "softmax, RMS norms, nothing shared": Case(
        lambda folder: north(
            folder, expert_selection_fn="softmax", rms_norm_eps=1e-5, num_shared_experts=0, tie_word_embeddings=False
        )
    ),
}
