from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import tiny
from tests.fixtures_gguf import LLAMA3_ROPE
from tests.parity.build import LLAMA, SHARP, SIZES, Tensors, build
from tests.parity.families import Case


def apertus(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["ApertusForCausalLM"],
        "model_type": "apertus",
        "attention_bias": False,
        "hidden_act": "xielu",
        "rms_norm_eps": 1e-5,
        "rope_scaling": LLAMA3_ROPE,
        "rope_theta": 12000000,
        "tie_word_embeddings": False,
    }
    scales = {**SHARP, "up_proj.weight": 8, "alpha_p": 20, "alpha_n": 20}
    return build(folder, LLAMA, config | words, hub=with_buffers, scales=scales)


def with_buffers(name: str, values: Any) -> Tensors:
    """xIELU's other two numbers, which are no parameters in transformers."""
    import torch

    tensors = tiny.hub_tensors(name, values)
    if name.endswith("alpha_p"):
        start = name.removesuffix("alpha_p")
        layer = int(name.split(".")[2])
        tensors[f"{start}beta"] = torch.tensor(0.5 + layer / 8, dtype=values.dtype)
        tensors[f"{start}eps"] = torch.tensor(-1e-6, dtype=values.dtype)
    return tensors


CASES = {
    "": Case(apertus),
    "biases": Case(lambda folder: apertus(folder, attention_bias=True)),
}
