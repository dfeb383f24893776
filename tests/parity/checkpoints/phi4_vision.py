from __future__ import annotations

import json
from pathlib import Path

from tests.parity.build import published
from tests.parity.checkpoints.phi3 import phi3
from tests.parity.families import Case


def with_tower(folder: Path) -> Path:
    """Phi-4 with vision: the same config and names, and a tower."""
    config = json.loads((phi3(folder) / "config.json").read_text())
    config |= {"architectures": ["Phi4ForCausalLMV"], "model_type": "phi4-siglip"}
    return published(
        folder, config, lambda tensors: {**tensors, "model.vision_tower.one.weight": tensors["lm_head.weight"].clone()}
    )


CASES = {"": Case(with_tower, equal=phi3)}
