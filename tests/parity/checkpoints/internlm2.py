from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import SIZES, Tensors, as_llama, published, renamed
from tests.parity.families import Case

RENAMES = (
    ("embed_tokens", "tok_embeddings"),
    ("input_layernorm", "attention_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.o_proj", "attention.wo"),
    ("mlp.gate_proj", "feed_forward.w1"),
    ("mlp.up_proj", "feed_forward.w3"),
    ("mlp.down_proj", "feed_forward.w2"),
    ("lm_head", "output"),
)


def internlm2(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["InternLM2ForCausalLM"],
        "model_type": "internlm2",
        "bias": False,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    return published(as_llama(folder), config | words, grouped)


def grouped(tensors: Tensors) -> Tensors:
    """The two queries of a group, its key, its value, then the next group."""
    import torch

    for name in [name for name in tensors if "q_proj" in name]:
        q, k, v = (tensors.pop(name.replace("q_proj", f"{which}_proj")) for which in "qkv")
        groups = [part.reshape(2, -1, 16, 64) for part in (q, k, v)]
        packed = torch.cat(groups, 1).reshape(-1, 64)
        tensors[name.replace("self_attn.q_proj", "attention.wqkv")] = packed
    return renamed(*RENAMES)(tensors)


CASES = {"": Case(internlm2, equal=as_llama)}
