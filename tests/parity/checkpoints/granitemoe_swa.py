from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, build, same
from tests.parity.experts import SCALES
from tests.parity.families import Case


def granite(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["GraniteMoeSWAForCausalLM"],
        "model_type": "granitemoe_swa",
        "hidden_act": "silu",
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "attention_multiplier": 0.1,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
        "logits_scaling": 2.0,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
        "sliding_window": 24,
        "shared_intermediate_size": 80,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    }
    scales = {**SCALES, "sinks": 20, "router.weight": 8, "shared_mlp.output_linear.weight": 8}
    return build(folder, QWEN, config | words, hub=same, scales=scales)


SOME = {"layer_rope_theta": [10000.0, 0, 10000.0, 0], "no_rope_layers": [1, 0, 1, 0]}
CASES = {
    "": Case(lambda folder: granite(folder, **SOME)),
    "nothing shared": Case(lambda folder: granite(folder, shared_intermediate_size=0, tie_word_embeddings=False)),
}
