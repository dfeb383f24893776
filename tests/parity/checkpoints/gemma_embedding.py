from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import LLAMA, SIZES, build
from tests.parity.families import Case
from tests.parity.sentences import pooled

IDENTITY = "torch.nn.modules.linear.Identity"
WITH_MATRICES = ("--sentence-transformers-dense-modules",)


def gemma_embedding(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["Gemma3TextModel"],
        "model_type": "gemma3_text",
        "head_dim": 24,
        "hidden_activation": "gelu_pytorch_tanh",
        "num_hidden_layers": 7,
        "query_pre_attn_scalar": 24,
        "rms_norm_eps": 1e-6,
        "rope_local_base_freq": 10000.0,
        "rope_theta": 1000000.0,
        "sliding_window": 32,
        "torch_dtype": "float32",
        "use_bidirectional_attention": True,
    }
    return build(folder, LLAMA, config | words)


CASES = {
    "": Case(
        lambda folder: pooled(gemma_embedding(folder), "mean", ((96, IDENTITY), (64, IDENTITY))),
        writes=False,
        upstream_options=WITH_MATRICES,
    ),
    "no matrices": Case(lambda folder: pooled(gemma_embedding(folder), "mean"), writes=False),
}
