from __future__ import annotations

from pathlib import Path

from tests.parity.build import QWEN, SIZES, as_llama, published, renamed
from tests.parity.families import Case

RENAMES = (("input_layernorm", "pre_attention_layernorm"), ("post_attention_layernorm", "pre_mlp_layernorm"))


def equal(folder: Path) -> Path:
    return as_llama(folder, QWEN)


def kormo(folder: Path) -> Path:
    config = {
        **SIZES,
        "architectures": ["KORMoForCausalLM"],
        "model_type": "kormo",
        "attention_bias": False,
        "head_dim": 16,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    return published(equal(folder), config, renamed(*RENAMES))


CASES = {"": Case(kormo, equal=equal)}
