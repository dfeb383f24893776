from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, build
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


def mamba(folder: Path, name: str = "Mamba", kind: str = "mamba", **words: Any) -> Path:
    named = {"architectures": [f"{name}ForCausalLM"], "model_type": kind}
    config = {**SIZES, **named, "intermediate_size": 128, "time_step_rank": 4, "tie_word_embeddings": True}
    return build(folder, QWEN, config | words, scales=SCALES)


def falcon(folder: Path) -> Path:
    return mamba(folder, "FalconMamba", "falcon_mamba", tie_word_embeddings=False, mixer_rms_eps=1e-5)


CASES = {"": Case(mamba), "Falcon-Mamba": Case(falcon)}
