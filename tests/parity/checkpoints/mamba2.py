from __future__ import annotations

from pathlib import Path

from tests.parity.build import QWEN, build
from tests.parity.checkpoints.mamba import SCALES, SIZES
from tests.parity.families import Case


def mamba2(folder: Path) -> Path:
    config = {
        **SIZES,
        "architectures": ["Mamba2ForCausalLM"],
        "model_type": "mamba2",
        "chunk_size": 32,
        "head_dim": 16,
        "n_groups": 2,
        "num_heads": 8,
        "tie_word_embeddings": False,
    }
    return build(folder, QWEN, config, scales=SCALES)


CASES = {"": Case(mamba2)}
