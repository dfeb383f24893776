from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, build
from tests.parity.checkpoints import granitemoe
from tests.parity.families import Case

MAMBA = {
    "mamba_chunk_size": 32,
    "mamba_conv_bias": True,
    "mamba_d_conv": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_expand": 2,
    "mamba_n_groups": 2,
    "mamba_n_heads": 8,
    "mamba_proj_bias": False,
}
SCALES = {
    **granitemoe.SCALES,
    "conv1d.weight": 8,
    "conv1d.bias": 4,
    "A_log": 12,
    "dt_bias": 12,
    "mamba.D": 12,
    "mamba.in_proj.weight": 4,
}


def granite_hybrid(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        **MAMBA,
        "architectures": ["GraniteMoeHybridForCausalLM"],
        "model_type": "granitemoehybrid",
        "attention_multiplier": 0.1,
        "embedding_multiplier": 3.0,
        "hidden_act": "silu",
        "intermediate_size": 96,
        "layer_types": ["mamba", "attention"],
        "logits_scaling": 2.0,
        "num_experts_per_tok": 2,
        "num_local_experts": 6,
        "position_embedding_type": "nope",
        "residual_multiplier": 0.5,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "shared_intermediate_size": 160,
        "tie_word_embeddings": True,
    }
    return build(folder, QWEN, config | words, hub=granitemoe.published, scales=SCALES)


def dense(folder: Path, **words: Any) -> Path:
    widths = {"num_local_experts": 0, "num_experts_per_tok": 0, "intermediate_size": 160}
    return granite_hybrid(folder, **widths, **words)


def attends(folder: Path) -> Path:
    words = {"layer_types": ["attention", "attention"], "position_embedding_type": "rope", "attention_bias": True}
    return dense(folder, tie_word_embeddings=False, **words)


CASES = {"": Case(granite_hybrid), "dense": Case(dense), "all layers attend": Case(attends)}
