from __future__ import annotations

from tests import tiny
from tests.parity.build import sharpened
from tests.parity.families import Case

# 22 x 16 patches: more than one window of 8 x 8 each way, the last ones cut. The embedding grows so that epsilon is
# lost beside it: llama.cpp's qwen2vl graph takes 0 for it.
CASES = {"": Case(lambda folder: sharpened(tiny.tiny_qwen2_5_vl(folder)), image=(224, 308))}
