from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import LLAMA, SHARP, SIZES, build
from tests.parity.families import Case

CODE_GEMMA = "upstream writes CodeGemma's tokens into every Gemma"
ALLOWED = {f"tokenizer.ggml.{role}_token_id": CODE_GEMMA for role in ("prefix", "suffix", "middle", "fsep", "eot")}


def gemma(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["GemmaForCausalLM"],
        "model_type": "gemma",
        "num_key_value_heads": 1,
        "head_dim": 24,
        "hidden_act": "gelu",
        "hidden_activation": None,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
    }
    return build(folder, LLAMA, config | words, scales={**SHARP, "embed_tokens.weight": 1.5})


CASES = {"": Case(gemma, allowed=ALLOWED)}
