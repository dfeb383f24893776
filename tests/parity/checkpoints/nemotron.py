from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import LLAMA, SHARP, SIZES, Tensors, build
from tests.parity.families import Case


def nemotron(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["NemotronForCausalLM"],
        "model_type": "nemotron",
        "head_dim": 16,
        "hidden_act": "relu2",
        "norm_eps": 1e-5,
        "partial_rotary_factor": 0.5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    return build(folder, LLAMA, config | words, hub=around_zero, scales={**SHARP, "mlp.up_proj.weight": 4})


def around_zero(name: str, values: Any) -> Tensors:
    """Norms that multiply by 1 + weight."""
    return {name: values - 1 if name.endswith("norm.weight") else values}


ALLOWED = {
    "nemotron.attention.layer_norm_rms_epsilon": "upstream's converter writes LayerNorm's epsilon as RMS norm's too",
    "nemotron.rope.scaling.type": "upstream's converter says that there is none; so does not saying it",
    "tokenizer.ggml.unknown_token_id": "the tokenizer's; upstream's converter writes 1 always",
}
CASES = {
    "": Case(nemotron, allowed=ALLOWED),
    "biases": Case(lambda folder: nemotron(folder, attention_bias=True, mlp_bias=True), allowed=ALLOWED),
}
