from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import LLAMA, SIZES, build
from tests.parity.families import Case

ALLOWED = {
    f"tokenizer.ggml.{role}_token_id": "upstream writes constants, those of NVIDIA's tokenizer"
    for role in ("unknown", "padding")
} | {"nemotron.attention.layer_norm_rms_epsilon": "upstream takes norm_eps for both kinds of norm"}


def nemotron(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["NemotronForCausalLM"],
        "model_type": "nemotron",
        "hidden_act": "relu2",
        "norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
    }
    return build(folder, LLAMA, config | words)


CASES = {
    "": Case(nemotron, allowed=ALLOWED),
    "biases": Case(lambda folder: nemotron(folder, attention_bias=True, mlp_bias=True), allowed=ALLOWED),
}
