from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, Hub, Tensors, build, same
from tests.parity.families import Case


def gpt2(folder: Path, hub: Hub = same) -> Path:
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "n_ctx": 512,
        "n_positions": 512,
        "n_embd": 64,
        "n_head": 4,
        "n_layer": 2,
    }
    return build(folder, QWEN, config, hub=hub, scales={"c_attn.weight": 8, "wpe.weight": 8})


def as_published(name: str, values: Any) -> Tensors:
    """OpenAI's own file: no "transformer." in front, and causal masks among the weights."""
    import torch

    tensors = {name.removeprefix("transformer."): values}
    if name.endswith("attn.c_attn.weight"):
        mask = torch.ones(16, 16).tril().reshape(1, 1, 16, 16)
        tensors[name.removeprefix("transformer.").replace("c_attn.weight", "bias")] = mask
    return tensors


CASES = {
    "": Case(gpt2),
    "as OpenAI published it": Case(
        lambda folder: gpt2(folder, as_published), no_parity="upstream's converter stops at the causal masks"
    ),
}
