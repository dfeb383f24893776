from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, Hub, build, same
from tests.parity.checkpoints.qwen3_next import DELTA_NET, SCALES, WITHOUT_DRAFTS
from tests.parity.checkpoints.qwen3_vl import VISION
from tests.parity.families import Case
from tests.parity.seeing import QWEN_MARKS

TEXT = {
    **SIZES,
    **DELTA_NET,
    "attention_bias": False,
    "full_attention_interval": 4,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "mrope_interleaved": True,
        "mrope_section": [2, 1, 1],
        "partial_rotary_factor": 0.25,
        "rope_theta": 10000000,
        "rope_type": "default",
    },
    "vocab_size": QWEN.vocab,
}


def qwen3_5(folder: Path, kind: str = "", hub: Hub = same, **words: Any) -> Path:
    name = "Moe" if kind else ""
    named = {"architectures": [f"Qwen3_5{name}ForCausalLM"], "model_type": f"qwen3_5{kind}_text"}
    config = {**TEXT, **named, "tie_word_embeddings": True, "mtp_num_hidden_layers": 1}
    return build(folder, QWEN, config | words, hub=hub, scales=SCALES)


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
    return build(folder, QWEN, config, hub=same, scales=SCALES)


CASES = {
    "": Case(qwen3_5, upstream_options=WITHOUT_DRAFTS),
    # loaded by its text alone: how its images go into a prompt is not known yet
    "with a tower": Case(seeing, upstream_options=WITHOUT_DRAFTS, equal=seeing),
}
