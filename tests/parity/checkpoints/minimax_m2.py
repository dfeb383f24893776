from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import tiny
from tests.parity.build import QWEN, SIZES, build
from tests.parity.checkpoints.deepseek2 import BY_BYTES
from tests.parity.experts import MIXTRAL, SCALES, corrected, renamed
from tests.parity.families import Case

HUB = corrected(
    ".block_sparse_moe.e_score_correction_bias",
    hub=renamed(tiny.hub_tensors, (".mlp.", ".block_sparse_moe."), *MIXTRAL.items()),
)


def minimax_m2(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["MiniMaxM2ForCausalLM"],
        "model_type": "minimax_m2",
        "hidden_act": "silu",
        "head_dim": 24,
        "intermediate_size": 48,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "rotary_dim": 12,
        "scoring_func": "sigmoid",
        "use_qk_norm": True,
        "qk_norm_type": "per_layer",
        "use_routing_bias": True,
        "rms_norm_eps": 1e-6,
        "rope_theta": 5000000,
        "tie_word_embeddings": False,
    }
    return build(folder, QWEN, config | words, hub=HUB, scales=SCALES)


CASES = {"": Case(minimax_m2, allowed=BY_BYTES)}
