from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import tiny
from tests.parity.build import LLAMA, SHARP, SIZES, Tensors, build
from tests.parity.families import Case

PUBLISHED = {".mlp.": ".block_sparse_moe.", "gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


def published(name: str, values: Any) -> Tensors:
    """Experts apart and called w1, w2, w3, as Mistral AI has them."""
    tensors = tiny.hub_tensors(name, values)
    for new, old in PUBLISHED.items():
        tensors = {key.replace(new, old): tensor for key, tensor in tensors.items()}
    return tensors


def mixtral(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "hidden_act": "silu",
        "intermediate_size": 96,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
    }
    scales = {**SHARP, "mlp.gate.weight": 8, "experts.down_proj": 8}
    return build(folder, LLAMA, config | words, hub=published, scales=scales)


CASES = {
    "": Case(mixtral),
    "5 experts": Case(lambda folder: mixtral(folder, num_local_experts=5)),
}
