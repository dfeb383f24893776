from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, build
from tests.parity.checkpoints.deepseek2 import BY_BYTES, NOT_LATENT, SCALES
from tests.parity.families import Case


def youtu(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["YoutuForCausalLM"],
        "model_type": "youtu",
        "attention_bias": False,
        "hidden_act": "silu",
        "kv_lora_rank": 32,
        "num_key_value_heads": 4,
        "pad_token_id": None,  # transformers makes its row zeros, whatever the checkpoint has
        "q_lora_rank": 40,
        "qk_nope_head_dim": 24,
        "qk_rope_head_dim": 16,
        "rms_norm_eps": 1e-6,
        "rope_interleave": True,
        "rope_scaling": None,
        "rope_theta": 1600000,
        "tie_word_embeddings": True,
        "v_head_dim": 20,
    }
    return build(folder, QWEN, config | words, scales=SCALES)


CASES = {
    "": Case(youtu),
    "untied, plain queries": Case(
        lambda folder: youtu(folder, tie_word_embeddings=False, q_lora_rank=None), allowed=NOT_LATENT | BY_BYTES
    ),
}
