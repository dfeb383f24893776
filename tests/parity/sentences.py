"""sentence-transformers' files beside a tiny checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MODES = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken"}
TYPE = "sentence_transformers.models"


def pooled(folder: Path, mode: str, dense: tuple[tuple[int, str], ...] = (), width: int = 64) -> Path:
    """The folder with modules.json: how it pools, and matrices behind that (outputs, torch's activation)."""
    parts = [("Transformer", ""), ("Pooling", "1_Pooling")]
    settings = dict.fromkeys(MODES.values(), False) | {"word_embedding_dimension": width, MODES[mode]: True}
    _write(folder / "1_Pooling", settings)
    for number, (outputs, activation) in enumerate(dense, 2):
        parts.append(("Dense", f"{number}_Dense"))
        made = {"in_features": width, "out_features": outputs, "bias": False, "activation_function": activation}
        _write(folder / f"{number}_Dense", made)
        _matrix(folder / f"{number}_Dense", (outputs, width), number)
        width = outputs
    parts.append(("Normalize", f"{len(parts)}_Normalize"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"{TYPE}.{kind}"} for i, (kind, path) in enumerate(parts)
    ]
    (folder / "modules.json").write_text(json.dumps(modules, indent=2), encoding="utf-8")
    return folder


def _write(folder: Path, config: dict[str, Any]) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _matrix(folder: Path, shape: tuple[int, int], seed: int) -> None:
    import torch
    from safetensors.torch import save_file

    values = torch.empty(shape).normal_(0.0, 0.1, generator=torch.Generator().manual_seed(seed))
    save_file({"linear.weight": values}, folder / "model.safetensors", {"format": "pt"})
