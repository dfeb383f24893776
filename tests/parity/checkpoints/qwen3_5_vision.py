from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, build, same
from tests.parity.checkpoints.qwen3_5 import TEXT
from tests.parity.checkpoints.qwen3_next import SCALES, WITHOUT_DRAFTS
from tests.parity.checkpoints.qwen3_vl import PROCESSOR, VISION
from tests.parity.families import Case
from tests.parity.seeing import QWEN_MARKS, VISION_SHARP, with_processor


def seeing(folder: Path, kind: str = "", more: Mapping[str, Any] | None = None) -> Path:
    """The model as it is on the hub: the text one under language_model, and a tower."""
    name = "Moe" if kind else ""
    tower = {key: value for key, value in VISION.items() if key != "deepstack_visual_indexes"}
    config = {
        **QWEN_MARKS,
        "architectures": [f"Qwen3_5{name}ForConditionalGeneration"],
        "model_type": f"qwen3_5{kind}",
        "text_config": {**TEXT, "model_type": f"qwen3_5{kind}_text", "mtp_num_hidden_layers": 1, **(more or {})},
        "tie_word_embeddings": False,
        "vision_config": {**tower, "model_type": f"qwen3_5{kind}"},
    }
    build(folder, QWEN, config, hub=same, scales={**SCALES, **VISION_SHARP})
    return with_processor(folder, PROCESSOR)


CASES = {"": Case(seeing, image=(128, 160), upstream_options=WITHOUT_DRAFTS)}
