"""What sentence-transformers makes of an encoder's vectors: modules.json and the folders that it names.

1_Pooling/config.json     one vector of a text: the mean of its tokens', the first one's or the last one's
2_Dense/                  a matrix behind that, with an activation
3_Normalize               to length 1, which a cosine does not see
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

FILE = "modules.json"
MODES = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last"}  # pooling_mode_… of config.json -> in a word
WORDS = {"mean": "mean", "cls": "cls", "lasttoken": "last"}  # pooling_mode
IDENTITY = "Identity"
PLAIN = ("Transformer", "Pooling", "Dense", "Normalize")
_FOLDER = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Dense:
    """A matrix behind the pooling; `folder` holds its weights, (outputs, inputs) called linear.weight."""

    folder: str
    inputs: int
    outputs: int
    bias: bool
    activation: str  # the torch class's name


@dataclass(frozen=True)
class Sentences:
    """What becomes of an encoder's vectors of tokens; `pooling` is mean, cls or last."""

    pooling: str
    dense: tuple[Dense, ...] = ()
    normalized: bool = False


class NotKnown(ValueError):
    """The folder asks for something that is not known here; the message says what, and what is."""


def parse(modules: object, config: Callable[[str], Mapping[str, object]]) -> Sentences | None:
    """What modules.json says, whose parts' config.json `config` reads by their folder; None where nothing is pooled.

    Raises NotKnown.
    """
    pooling, dense, normalized = "", list[Dense](), False
    for kind, folder in _parts(modules):
        if kind == "Pooling":
            pooling = _pooling(config(folder), folder)
        elif kind == "Dense":
            dense.append(_dense(config(folder), folder))
        normalized = normalized or kind == "Normalize"
    return Sentences(pooling, tuple(dense), normalized) if pooling else None


def folders(modules: object) -> list[str]:
    """The folders whose files count. Raises NotKnown."""
    return [folder for kind, folder in _parts(modules) if kind in ("Pooling", "Dense")]


def _parts(modules: object) -> list[tuple[str, str]]:
    """Kind and folder of each part, in order."""
    if not isinstance(modules, Sequence) or not all(isinstance(part, Mapping) for part in modules):
        raise NotKnown(f"{FILE} is not a list of parts")
    parts = []
    for part in modules:
        kind, folder = str(part.get("type", "")).rpartition(".")[2], part.get("path")
        if kind not in PLAIN:
            raise NotKnown(f"{FILE} has a part of type {kind[:40]!r}, wanted {', '.join(PLAIN)}")
        if kind in ("Pooling", "Dense") and not (isinstance(folder, str) and _FOLDER.fullmatch(folder)):
            raise NotKnown(f"{FILE}: the path of {kind} is {str(folder)[:40]!r}, wanted the name of a folder")
        parts.append((kind, str(folder)))
    return parts


def _pooling(config: Mapping[str, object], folder: str) -> str:
    modes = [mode for mode in config if mode.startswith("pooling_mode_") and config[mode] is True]
    word = config.get("pooling_mode")
    names = [MODES.get(mode.removeprefix("pooling_mode_"), "") for mode in modes]
    if not modes and isinstance(word, str):
        modes, names = [f"pooling_mode {word[:40]!r}"], [WORDS.get(word, "")]
    if len(names) != 1 or not names[0]:
        raise NotKnown(f"{folder} pools by {' and '.join(modes) or 'nothing'}, wanted one of {', '.join(WORDS)}")
    return names[0]


def _dense(config: Mapping[str, object], folder: str) -> Dense:
    inputs, outputs = config.get("in_features"), config.get("out_features")
    if not (isinstance(inputs, int) and isinstance(outputs, int) and 0 < inputs < 1 << 20 and 0 < outputs < 1 << 20):
        raise NotKnown(f"{folder} goes from {str(inputs)[:20]} to {str(outputs)[:20]} values, wanted two numbers")
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    return Dense(folder, inputs, outputs, config.get("bias", True) is True, activation)
