from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, build
from tests.parity.families import Case

BASE = 500000.0
YARN = {"rope_type": "yarn", "rope_theta": BASE, "factor": 8.0, "original_max_position_embeddings": 64}
PLAIN = {"rope_type": "default", "rope_theta": BASE}
SCALES = {"q_proj.weight": 4, "k_proj.weight": 4, "embed_tokens.weight": 12, "q_norm.weight": 4, "mlp.gate.weight": 8}


def mellum(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["MellumForCausalLM"],
        "model_type": "mellum",
        "attention_bias": False,
        "head_dim": 32,
        "hidden_act": "silu",
        "layer_types": ["sliding_attention", "full_attention"],
        "mlp_layer_types": ["sparse", "sparse"],
        "moe_intermediate_size": 48,
        "norm_topk_prob": True,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"full_attention": YARN, "sliding_attention": PLAIN},
        "sliding_window": 24,
        "tie_word_embeddings": False,
    }
    return build(folder, QWEN, config | words, scales=SCALES)


FULL = {"layer_types": ["full_attention"] * 2, "rope_parameters": {"full_attention": PLAIN, "sliding_attention": PLAIN}}
WINDOWS = {
    f"mellum.{key}": "upstream writes a window that no layer has, with which llama.cpp aborts"
    for key in ("attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa")
}
CASES = {"": Case(mellum), "no windows": Case(lambda folder: mellum(folder, **FULL), allowed=WINDOWS)}
