from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SHARP, SIZES, build
from tests.parity.families import Case

SCALES = {**SHARP, "mlp.gate.weight": 8, "shared_expert_gate.weight": 8, "experts.down_proj": 8, "_proj.bias": 4}


def qwen2_moe(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["Qwen2MoeForCausalLM"],
        "model_type": "qwen2_moe",
        "hidden_act": "silu",
        "moe_intermediate_size": 96,
        "shared_expert_intermediate_size": 160,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "sliding_window": 32,
        "use_sliding_window": False,
        "max_window_layers": 2,
        "tie_word_embeddings": False,
    }
    return build(folder, QWEN, config | words, scales=SCALES)


CASES = {
    "": Case(qwen2_moe),
    "no biases": Case(lambda folder: qwen2_moe(folder, qkv_bias=False, mlp_only_layers=[])),
}
