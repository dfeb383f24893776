"""Tiny LoRA adapters as PEFT writes them, by names and shapes of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

PREFIX = "base_model.model."
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "bias": "none"}


def weights(folder: Path) -> dict[str, Tensor]:
    """The checkpoint's tensors."""
    return {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}


def adapter(
    folder: Path,
    base: Path,
    modules: Sequence[str] = ("q_proj", "down_proj"),
    more: Mapping[str, Tensor] | None = None,
    **words: Any,
) -> dict[str, Tensor]:
    """Write an adapter of the matrices whose names end so; its tensors, without PEFT's prefix."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(len(modules) + len(words))
    rank, made = words.get("r", CONFIG["r"]), dict[str, Tensor]()
    for name, tensor in weights(base).items():
        module = name.removesuffix(".weight")
        if not module.endswith(tuple(modules)) or tensor.ndim != 2:
            continue
        outputs, inputs = tensor.shape[::-1] if words.get("fan_in_fan_out") else tensor.shape
        made[f"{module}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator) * 0.1
        made[f"{module}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator) * 0.1
        if words.get("use_dora"):
            made[f"{module}.lora_magnitude_vector"] = torch.rand(outputs, generator=generator) + 0.5
    made |= more or {}
    save_file({f"{PREFIX}{name}": tensor for name, tensor in made.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **words}))
    return made
