from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, build
from tests.parity.experts import SCALES
from tests.parity.families import Case


def hunyuan(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["HunYuanMoEV1ForCausalLM"],
        "model_type": "hunyuan_v1_moe",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "head_dim": 16,
        "intermediate_size": 96,
        "moe_intermediate_size": [96, 96],
        "moe_topk": [2, 2],
        "num_experts": 6,
        "num_shared_expert": [1, 1],
        "use_mixed_mlp_moe": True,
        "use_cla": False,
        "use_qk_norm": True,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    }
    scales = {**SCALES, "gate.wg.weight": 8, "query_layernorm.weight": 3, "key_layernorm.weight": 3}
    return build(folder, QWEN, config | words, scales=scales)


STRETCHED = {"type": "dynamic", "alpha": 20.0, "factor": 1.0}
CASES = {
    "": Case(hunyuan),
    "stretched by alpha": Case(
        lambda folder: hunyuan(folder, rope_scaling=STRETCHED, tie_word_embeddings=False),
        no_parity="upstream takes alpha for 1000 and heads for 128 wide, and stops at any other",
    ),
}
