"""Helpers for tests of GGUF files: convert a folder, read a file, weights that are the same for ever."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from convert.bundle import Bundle
from convert.formats.gguf.stage import STAGE as stage
from convert.progress import Silent
from convert.source.safetensors import read_header
from convert.source.stage import STAGE as source
from tests import tiny

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def source_inputs(folder: Path) -> dict[str, Bundle]:
    return {"source": source.forecast(source.Options(path=folder.absolute()), {})}


def convert(folder: Path, out: Path, *types: str, **options: Any) -> Bundle:
    """Run the stage as the pipeline does: check, then run."""
    inputs, words = source_inputs(folder), stage.Options(types=list(types), **options)
    assert [str(p) for p in stage.check(words, inputs)] == []
    out.mkdir(parents=True, exist_ok=True)
    return stage.run(words, inputs, out, Silent())


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(fields, tensors) by the format's own reader."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    return {k: f.contents() for k, f in reader.fields.items()}, {t.name: t for t in reader.tensors}


def digests(path: Path) -> dict[str, str]:
    """Tensor -> type, shape and a hash of its bytes."""
    _, tensors = read_gguf(path)
    return {
        name: f"{t.tensor_type.name} {list(map(int, t.shape))} {hashlib.sha256(t.data.tobytes()).hexdigest()[:16]}"
        for name, t in tensors.items()
    }


def edit_config(folder: Path, **changes: Any) -> None:
    """Change words of config.json; None removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def edit_weights(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Change the tensors (torch, by name) of a checkpoint in one file."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    tensors = change(tensors) or tensors
    path.unlink()
    save_file(tensors, path, {"format": "pt"})


def packed_matrix(tensors: dict[str, Any]) -> dict[str, Any]:
    """Tensors with one matrix of packed integers among them, as every 4-bit method stores them."""
    import torch

    return tensors | {"model.layers.0.mlp.up_proj.weight": torch.zeros(4096, 1, dtype=torch.uint8)}


def golden_checkpoints(folder: Path) -> dict[str, Path]:
    """The checkpoints of golden_peer.json, with weights that no version of torch can change."""
    made = {
        "llama": tiny.tiny_llama(folder / "llama", layers=1, tied=False, rope_scaling=LLAMA3_ROPE, attention_bias=True),
        "qwen2": tiny.tiny_qwen2(folder / "qwen2", layers=1, tied=True),
        "qwen3": tiny.tiny_qwen3(folder / "qwen3", layers=1),
        "qwen3_moe": tiny.tiny_qwen3_moe(folder / "qwen3_moe", layers=1),
        "vl": tiny.tiny_qwen2_5_vl(folder / "vl", layers=1, vision_layers=4, vision_hidden=32),
    }
    for path in made.values():
        _fixed_weights(path / "model.safetensors")
    return made


def _fixed_weights(path: Path) -> None:
    """Overwrite every BF16 tensor of a safetensors file with numbers from numpy's frozen legacy generator."""
    header = read_header(path)
    draw = np.random.RandomState(20)
    with open(path, "r+b") as file:
        for entry in sorted(header.entries, key=lambda e: e.name):
            assert entry.dtype == "BF16"
            values = (draw.randint(-4096, 4097, (entry.stop - entry.start) // 2) / 32768).astype(np.float32)
            file.seek(entry.start)
            file.write((values.view(np.uint32) >> 16).astype("<u2").tobytes())
