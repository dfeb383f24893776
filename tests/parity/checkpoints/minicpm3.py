from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import LLAMA, SHARP, SIZES, build
from tests.parity.families import Case

SCALES = {**SHARP, "q_b_proj.weight": 16, "kv_a_proj_with_mqa.weight": 4, "kv_b_proj.weight": 8}
LONG = {
    "type": "longrope",
    "long_factor": [2.0 + i for i in range(8)],
    "short_factor": [1.0 + i / 16 for i in range(8)],
    "original_max_position_embeddings": 64,
}


def minicpm3(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["MiniCPM3ForCausalLM"],
        "model_type": "minicpm3",
        "attention_bias": False,
        "dim_model_base": 256,
        "hidden_act": "silu",
        "hidden_size": 80,
        "kv_lora_rank": 32,
        "num_key_value_heads": 4,
        "q_lora_rank": 40,
        "qk_nope_head_dim": 24,
        "qk_rope_head_dim": 16,
        "rms_norm_eps": 1e-6,
        "rope_scaling": LONG,
        "scale_depth": 1.4,
        "scale_emb": 12,
        "tie_word_embeddings": True,
    }
    return build(folder, LLAMA, config | words, scales=SCALES)


ROTARY = {
    f"minicpm3.rope.{key}": "upstream says nothing of positions but the factors; llama.cpp scales as the source by it"
    for key in ("scaling.type", "scaling.original_context_length", "scaling.attn_factor")
}
CASES = {
    "": Case(minicpm3, allowed=ROTARY),
    "untied, wide values": Case(
        lambda folder: minicpm3(folder, tie_word_embeddings=False, v_head_dim=28, rope_scaling=None),
        allowed={"minicpm3.attention.value_length": "upstream leaves it out; llama.cpp takes hidden_size / heads"},
    ),
}
