from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.checkpoints.glm4 import ROLES, glm4
from tests.parity.families import Case

OLD = "upstream looks for ChatGLM's own word for it and takes a constant where there is none"


def glm(folder: Path, **words: Any) -> Path:
    config = {"architectures": ["GlmForCausalLM"], "model_type": "glm", "head_dim": 16, "rope_theta": 50000.0}
    return glm4(folder, **config | words)


ALLOWED = {
    **ROLES,
    "chatglm.context_length": OLD,
    "chatglm.attention.layer_norm_rms_epsilon": OLD,
    "chatglm.rope.freq_base": OLD,
}
CASES = {"": Case(glm, allowed=ALLOWED)}
