from __future__ import annotations

from pathlib import Path

from tests.parity.build import QWEN, Tensors, published
from tests.parity.checkpoints.deepseek2 import BY_BYTES, NOT_LATENT, V3, deepseek, with_correction
from tests.parity.families import Case

INNER = {**V3, "n_group": 1, "topk_group": 1, "num_nextn_predict_layers": 0, "rope_theta": 50000}


def seeing(tensors: Tensors) -> Tensors:
    """The language model within another, beside a tower."""
    import torch

    tower = {"vision_tower.patch_embed.proj.weight": torch.ones(4, 3, 14, 14)}
    return tower | {f"language_model.{name}": values for name, values in tensors.items()}


def kimi(folder: Path, kind: str, **inner: object) -> Path:
    """A checkpoint in the publishers' layout; its model_type is none of transformers'."""
    import json

    equal = deepseek(INNER | inner, with_correction)(folder)
    text = json.loads((equal / "config.json").read_text())
    config = {
        "architectures": [kind],
        "model_type": "kimi",
        "text_config": text,
        "vision_config": {"hidden_size": 32},
        "bos_token_id": QWEN.config["bos_token_id"],
        "eos_token_id": QWEN.config["eos_token_id"],
        "pad_token_id": QWEN.config["pad_token_id"],
    }
    return published(equal, config, seeing)


NO_LATENT_QUERIES = {"q_lora_rank": None}
CASES = {
    "": Case(
        lambda folder: kimi(folder, "KimiK25ForConditionalGeneration"),
        equal=deepseek(INNER, with_correction),
        allowed=BY_BYTES,
    ),
    "Kimi-VL": Case(
        lambda folder: kimi(folder, "KimiVLForConditionalGeneration", **NO_LATENT_QUERIES),
        equal=deepseek(INNER | NO_LATENT_QUERIES, with_correction),
        allowed=BY_BYTES | NOT_LATENT,
    ),
}
