from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import SIZES, Tensors, published, renamed
from tests.parity.checkpoints.hunyuan_v1_dense import hunyuan
from tests.parity.families import Case

PLAIN: dict[str, Any] = {"rope_scaling": None, "max_position_embeddings": 512}


def equal(folder: Path) -> Path:
    """A Hunyuan, whose norms come behind RoPE too."""
    return hunyuan(folder, **PLAIN)


def maincoder(folder: Path) -> Path:
    config = {
        **SIZES,
        "architectures": ["MaincoderForCausalLM"],
        "model_type": "maincoder",
        "attention_bias": False,
        "head_dim": 32,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    }
    return published(equal(folder), config, neighbours)


def neighbours(tensors: Tensors) -> Tensors:
    """Maincoder turns neighbours where Hunyuan turns halves; the norms' weights go with their values."""
    made = dict(tensors)
    for name, values in tensors.items():
        if any(part in name for part in ("q_proj", "k_proj", "query_layernorm", "key_layernorm")):
            heads = values.reshape(-1, 2, 16, *values.shape[1:])
            made[name] = heads.transpose(1, 2).reshape(values.shape)
    return renamed(("query_layernorm", "q_norm"), ("key_layernorm", "k_norm"))(made)


CASES = {"": Case(maincoder, equal=equal)}
