from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, Tensors, build
from tests.parity.families import Case

ALLOWED = {"general.file_type": "upstream leaves it out of these files"}


def gpt_neox(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.5,
        "tie_word_embeddings": False,
        "use_parallel_residual": True,
    }
    scales = {"query_key_value.weight": 6, "embed_in.weight": 12}
    return build(folder, QWEN, config | words, hub=as_published, scales=scales)


def as_published(name: str, values: Any) -> Tensors:
    """EleutherAI's files have causal masks and frequencies among the weights."""
    import torch

    tensors = {name.replace("lm_head.", "embed_out."): values}
    if name.endswith("attention.dense.bias"):
        start = name.removesuffix("dense.bias")
        tensors[f"{start}bias"] = torch.ones(16, 16).tril().reshape(1, 1, 16, 16).bool()
        tensors[f"{start}masked_bias"] = torch.tensor([-1e9])
        tensors[f"{start}rotary_emb.inv_freq"] = torch.ones(4)
    return tensors


CASES = {
    "": Case(gpt_neox, allowed=ALLOWED),
    "one after the other": Case(lambda folder: gpt_neox(folder, use_parallel_residual=False), allowed=ALLOWED),
}
