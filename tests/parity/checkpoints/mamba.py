from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, Hub, Tensors, build, same
from tests.parity.families import Case

SCALES = {
    "embeddings.weight": 12,
    "conv1d.weight": 8,
    "conv1d.bias": 4,
    "A_log": 12,
    "mixer.D": 12,
    "in_proj.weight": 4,
    "x_proj.weight": 8,
    "dt_proj.weight": 8,
    "dt_proj.bias": 12,
    "dt_bias": 12,
}
SIZES = {
    "conv_kernel": 4,
    "expand": 2,
    "hidden_size": 64,
    "layer_norm_epsilon": 1e-5,
    "num_hidden_layers": 2,
    "state_size": 16,
    "torch_dtype": "bfloat16",
    "use_bias": False,
    "use_conv_bias": True,
}


def of_mamba_ssm(name: str, values: Any) -> Tensors:
    """As the library mamba_ssm calls it."""
    return {name.replace("embeddings.", "embedding."): values}


def mamba(folder: Path, name: str = "Mamba", kind: str = "mamba", hub: Hub = same, **words: Any) -> Path:
    named = {"architectures": [f"{name}ForCausalLM"], "model_type": kind}
    config = {**SIZES, **named, "intermediate_size": 128, "time_step_rank": 4, "tie_word_embeddings": True}
    return build(folder, QWEN, config | words, scales=SCALES, drawn_as=f"{name}ForCausalLM", hub=hub)


def falcon(folder: Path) -> Path:
    return mamba(folder, "FalconMamba", "falcon_mamba", tie_word_embeddings=False, mixer_rms_eps=1e-5)


def head_model(folder: Path) -> Path:
    return mamba(folder, architectures=["MambaLMHeadModel"], hub=of_mamba_ssm)


CASES = {"": Case(mamba), "of mamba_ssm": Case(head_model, equal=mamba), "Falcon-Mamba": Case(falcon)}
