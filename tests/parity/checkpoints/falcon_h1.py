from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, build
from tests.parity.checkpoints.granite_hybrid import MAMBA, SCALES
from tests.parity.families import Case

NO_HEAD = "upstream leaves the head to the embedding, which has another factor: logits are then no longer the source's"


def falcon_h1(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        **MAMBA,
        "architectures": ["FalconH1ForCausalLM"],
        "model_type": "falcon_h1",
        "attention_in_multiplier": 1.5,
        "attention_out_multiplier": 0.7,
        "embedding_multiplier": 5.6,
        "head_dim": 32,
        "hidden_act": "silu",
        "key_multiplier": 0.4,
        "lm_head_multiplier": 0.1,
        "mamba_d_ssm": 96,
        "mamba_n_heads": 6,
        "mamba_norm_before_gate": False,
        "mamba_rms_norm": True,
        "mlp_multipliers": [0.9, 0.3],
        "projectors_bias": False,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000000000.0,
        "ssm_in_multiplier": 1.25,
        "ssm_multipliers": [0.35, 0.25, 0.16, 0.5, 0.4],
        "ssm_out_multiplier": 0.2,
        "tie_word_embeddings": False,
    }
    return build(folder, QWEN, config | words, scales=SCALES)


def tied(folder: Path) -> Path:
    return falcon_h1(folder, tie_word_embeddings=True, mamba_rms_norm=False)


CASES = {
    "": Case(falcon_h1),
    "tied, no norm": Case(tied, allowed={"tensor output.weight": NO_HEAD, "general.size_label": NO_HEAD}),
}
