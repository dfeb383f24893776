from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import tiny
from tests.parity.build import LLAMA, SIZES, build
from tests.parity.checkpoints.deepseek2 import BY_BYTES
from tests.parity.experts import SCALES, renamed
from tests.parity.families import Case

STATISTICS = ("mlp.gate.moe_statics", "mlp.moe_statics")


def ernie(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["Ernie4_5_MoeForCausalLM"],
        "model_type": "ernie4_5_moe",
        "head_dim": 16,
        "hidden_act": "silu",
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "moe_intermediate_size": 48,
        "moe_num_experts": 6,
        "moe_k": 2,
        "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1,
        "moe_layer_end_index": 2,
        "moe_layer_interval": 1,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "use_bias": False,
    }
    scales = {"e_score_correction_bias": 2, **SCALES}
    return build(folder, LLAMA, config | words, hub=renamed(tiny.hub_tensors, STATISTICS), scales=scales)


CASES = {
    "": Case(ernie, allowed=BY_BYTES),
    "nothing shared": Case(
        lambda folder: ernie(folder, moe_num_shared_experts=0, moe_layer_start_index=0, tie_word_embeddings=False),
        allowed=BY_BYTES,
    ),
}
