from __future__ import annotations

from pathlib import Path

from tests.parity.build import LLAMA, SIZES, build, experts_apart
from tests.parity.checkpoints.mamba import SCALES
from tests.parity.families import Case


def jamba(folder: Path) -> Path:
    config = {
        **SIZES,
        "architectures": ["JambaForCausalLM"],
        "model_type": "jamba",
        "attn_layer_offset": 1,
        "attn_layer_period": 3,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "hidden_act": "silu",
        "mamba_conv_bias": True,
        "mamba_d_conv": 4,
        "mamba_d_state": 16,
        "mamba_dt_rank": 4,
        "mamba_expand": 2,
        "mamba_proj_bias": False,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 3,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    }
    sharp = {"q_proj.weight": 12, "k_proj.weight": 12, "embed_tokens.weight": 12, "router.weight": 8}
    scales = {**sharp, "mamba.D": 12, "experts.down_proj": 8, **SCALES}
    return build(folder, LLAMA, config, hub=experts_apart, scales=scales)


CASES = {"": Case(jamba)}
