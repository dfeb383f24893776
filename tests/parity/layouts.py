"""Other writers' layouts of a tiny checkpoint: what `published` of build.py makes of transformers' own names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.fixtures_gguf import edit_weights
from tests.parity.build import Tensors, published, renamed


def of_layer(tensors: Tensors, layer: int, prefix: str = "model.layers") -> Tensors:
    """The tensors of a layer, by what follows its number in their names; they share memory with the checkpoint's."""
    start = f"{prefix}.{layer}."
    return {name.removeprefix(start): values for name, values in tensors.items() if name.startswith(start)}


def edited(folder: Path, change: Callable[[Tensors], None]) -> Path:
    """The folder with tensors that `change` changed in place."""
    edit_weights(folder, change)
    return folder


def inside(folder: Path, name: str, kind: str, renames: tuple[tuple[str, str], ...], tower: str) -> Path:
    """A text model as the part of one with a tower: its config under text_config, a tensor of the tower beside it.

    The tower itself is not there: this is for what makes the text, and leaves towers to others.
    """
    text = json.loads((folder / "config.json").read_text())
    outer = {key: text.pop(key) for key in ("architectures", "torch_dtype")} | {"architectures": [name]}
    vocabulary = {key: value for key, value in text.items() if key.endswith("token_id")}

    def layout(tensors: Tensors) -> Tensors:
        made = renamed(*renames)(tensors)
        return {**made, tower: next(iter(tensors.values())).clone()}

    return published(folder, {**vocabulary, **outer, "model_type": kind, "text_config": text}, layout)
