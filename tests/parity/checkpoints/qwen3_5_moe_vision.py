from __future__ import annotations

from tests.parity.checkpoints.qwen3_5_vision import seeing
from tests.parity.checkpoints.qwen3_next import EXPERTS, WITHOUT_DRAFTS
from tests.parity.families import Case

CASES = {"": Case(lambda folder: seeing(folder, "_moe", EXPERTS), image=(128, 160), upstream_options=WITHOUT_DRAFTS)}
