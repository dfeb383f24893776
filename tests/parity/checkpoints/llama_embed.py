from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.fixtures_gguf import edit_config
from tests.parity.build import LLAMA, SIZES, build
from tests.parity.families import Case
from tests.parity.sentences import pooled

MASKED = "llama.cpp's graph hides what comes behind a token unless the file says otherwise, which upstream's leaves out"
POOLED = "upstream's converter does not read sentence-transformers' files of this class"


def as_eurobert(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["EuroBertModel"],
        "model_type": "eurobert",
        "hidden_act": "silu",
        "head_dim": 16,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "torch_dtype": "float32",
    }
    return build(folder, LLAMA, config | words)


def llama_embed(folder: Path) -> Path:
    edit_config(as_eurobert(folder), architectures=["LlamaBidirectionalModel"], model_type="llama_bidirec")
    return pooled(folder, "mean")


CASES = {
    "": Case(
        llama_embed,
        writes=False,
        equal=as_eurobert,
        allowed={"llama-embed.attention.causal": MASKED, "llama-embed.pooling_type": POOLED},
    ),
}
