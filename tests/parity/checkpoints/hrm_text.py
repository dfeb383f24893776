from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.fixtures_gguf import edit_weights
from tests.parity.build import QWEN, SIZES, Tensors, build
from tests.parity.families import Case


def hrm(folder: Path, **words: Any) -> Path:
    config = {
        **{key: value for key, value in SIZES.items() if key != "num_key_value_heads"},
        "architectures": ["HrmTextForCausalLM"],
        "model_type": "hrm_text",
        "H_cycles": 2,
        "L_cycles": 3,
        "embedding_scale": 8.0,
        "head_dim": 32,
        "hidden_act": "silu",
        "prefix_lm": True,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    edit_weights(build(folder, QWEN, config | words), fused)
    return folder


def fused(tensors: Tensors) -> Tensors:
    """Gate, queries, keys and values in one matrix, gate and up in one."""
    import torch

    made = {}
    for name, values in tensors.items():
        start, _, last = name.partition(".self_attn.")
        if last == "o_proj.weight":
            made[f"{start}.attn.o_proj.weight"] = values
        elif last == "q_proj.weight":
            parts = [tensors[f"{start}.self_attn.{which}_proj.weight"] for which in ("gate", "q", "k", "v")]
            made[f"{start}.attn.gqkv_proj.weight"] = torch.cat(parts)
        elif name.endswith("mlp.gate_proj.weight"):
            up = tensors[name.replace("gate_proj", "up_proj")]
            made[name.replace("gate_proj", "gate_up_proj")] = torch.cat([values, up])
        elif not last and not name.endswith("mlp.up_proj.weight"):
            made[name] = values
    return made


CASES = {"": Case(hrm), "tied": Case(lambda folder: hrm(folder, tie_word_embeddings=True, embedding_scale=None))}
