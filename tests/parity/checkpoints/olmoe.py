from __future__ import annotations

from pathlib import Path

from tests.parity.build import QWEN, SHARP, SIZES, build
from tests.parity.families import Case


def olmoe(folder: Path) -> Path:
    config = {
        **SIZES,
        "architectures": ["OlmoeForCausalLM"],
        "model_type": "olmoe",
        "hidden_act": "silu",
        "num_key_value_heads": 4,
        "clip_qkv": None,
        "intermediate_size": 96,
        "num_experts": 6,
        "num_experts_per_tok": 3,
        "norm_topk_prob": False,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    # the norms take what q_proj and k_proj are multiplied by away again
    scales = {**SHARP, "q_norm.weight": 6, "mlp.gate.weight": 8, "experts.down_proj": 8}
    return build(folder, QWEN, config, scales=scales)


CASES = {"": Case(olmoe)}
