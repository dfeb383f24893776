from __future__ import annotations

from pathlib import Path

from tests.parity.build import QWEN, SIZES, Tensors, published
from tests.parity.checkpoints import deepseek
from tests.parity.families import Case

CONFIG = {
    **SIZES,
    "architectures": ["BailingMoeForCausalLM"],
    "model_type": "bailing_moe",
    "hidden_act": "silu",
    "head_dim": 16,
    "first_k_dense_replace": 0,
    "moe_intermediate_size": 48,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "num_shared_experts": 2,
    "norm_topk_prob": True,
    "norm_head": False,
    "norm_softmax": False,
    "use_bias": False,
    "use_qkv_bias": False,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


def equal(folder: Path) -> Path:
    return deepseek.equal(folder, QWEN, num_hidden_layers=2, mlp_only_layers=[], norm_topk_prob=True)


def fused(tensors: Tensors) -> Tensors:
    """Ling's names: query, key and value in one, the embedding called after words."""
    import torch

    made = {
        name.replace("embed_tokens", "word_embeddings").replace("self_attn.o_proj", "attention.dense"): values
        for name, values in tensors.items()
        if not name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))
    }
    for name in [name for name in tensors if name.endswith("q_proj.weight")]:
        parts = [tensors[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
        made[name.replace("self_attn.q_proj", "attention.query_key_value")] = torch.cat(parts)
    return made


def ling(folder: Path) -> Path:
    return published(equal(folder), CONFIG, lambda tensors: fused(deepseek.ungated(tensors)))


CASES = {"": Case(ling, equal=equal)}
