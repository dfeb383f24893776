from __future__ import annotations

from tests import tiny
from tests.parity.build import sharpened
from tests.parity.families import Case

CASES = {"": Case(lambda folder: sharpened(tiny.tiny_qwen3_moe(folder)))}
