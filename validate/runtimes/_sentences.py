"""An encoder on transformers: which class it is loaded as, and what becomes of its vectors of tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from validate.errors import RuntimeFailure
from validate.sentences import FILE, IDENTITY, Dense, NotKnown, Sentences, parse

if TYPE_CHECKING:
    from torch import Tensor

CLASSIFIER = "ForSequenceClassification"
UNUSED = ("pooler.", "lm_head.")  # made up, or left over, where no embedding goes through it


def gives_vectors(name: str, remote: Mapping[str, object]) -> bool:
    """Whether a model class gives vectors of tokens and no text; `remote` is the config's auto_map."""
    from transformers.models.auto import modeling_auto as auto

    tables = (auto.MODEL_MAPPING_NAMES, auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    if any(name in known for table in tables for known in map(_names, table.values())):
        return True
    return "AutoModel" in remote and "AutoModelForCausalLM" not in remote


def _names(classes: str | Sequence[str]) -> Sequence[str]:
    return [classes] if isinstance(classes, str) else classes


def read_sentences(folder: Path) -> Sentences | None:
    """What sentence-transformers' files in a checkpoint's folder say; None where there are none."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")), lambda name: _config(folder / name))
    except (NotKnown, OSError, ValueError) as error:
        raise RuntimeFailure(f"{path}: {error}") from error


def _config(folder: Path) -> Mapping[str, object]:
    found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise NotKnown(f"{folder.name}/config.json is no object")
    return found


def pooled(vectors: Tensor, sentences: Sentences | None) -> Tensor:
    """(width,) of (token, width): the mean where no file says how."""
    if sentences is None or sentences.pooling == "mean":
        return vectors.mean(0)
    return vectors[0 if sentences.pooling == "cls" else -1]


def through(vector: Tensor, dense: Dense, folder: Path) -> Tensor:
    """The vector behind a matrix of sentence-transformers'."""
    import torch
    from safetensors.torch import load_file

    weights = load_file(folder / dense.folder / "model.safetensors")
    activations = {IDENTITY: torch.nn.Identity, "Tanh": torch.nn.Tanh, "ReLU": torch.nn.ReLU, "GELU": torch.nn.GELU}
    if dense.activation not in activations:
        raise RuntimeFailure(f"{dense.folder} has the activation {dense.activation}, wanted {', '.join(activations)}")
    bias = weights["linear.bias"].float() if dense.bias else None
    out: Tensor = activations[dense.activation]()(
        torch.nn.functional.linear(vector, weights["linear.weight"].float(), bias)
    )
    return out
