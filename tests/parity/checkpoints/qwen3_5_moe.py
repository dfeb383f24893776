from __future__ import annotations

from pathlib import Path

from tests.parity.build import same
from tests.parity.checkpoints.qwen3_5 import qwen3_5
from tests.parity.checkpoints.qwen3_next import EXPERTS, WITHOUT_DRAFTS
from tests.parity.families import Case


def qwen3_5_moe(folder: Path) -> Path:
    return qwen3_5(folder, "_moe", hub=same, tie_word_embeddings=False, **EXPERTS)


CASES = {"": Case(qwen3_5_moe, upstream_options=WITHOUT_DRAFTS)}
