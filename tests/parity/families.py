"""The registry: every file in tests/parity/checkpoints says how to make tiny checkpoints of one family.

Such a file is called as the family's module in convert/architectures and has

    CASES: dict[str, Case]      variant -> case; "" is the plain one
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tests.parity import checkpoints

ALL_VARIANTS = bool(os.environ.get("ALL_VARIANTS"))
T = TypeVar("T")


@dataclass(frozen=True)
class Case:
    """A tiny checkpoint and what is known about it.

    `tolerance` is the largest difference of F32 logits to transformers (with ggml's GELU in it), as a part of their
    standard deviation; more than 2e-3 needs its `why`. Plain transformers may be 2e-2 away, always.
    `allowed` are metadata keys, "tensor NAME" or "order of tensors", that differ from the upstream converter's -> the
    reason; and tensors that only our files have.
    Where transformers has no class for the checkpoint, `equal` makes the same model in the layout of one that it has.
    """

    make: Callable[[Path], Path]
    tolerance: float = 2e-3
    why: str = ""
    allowed: Mapping[str, str] = field(default_factory=dict)
    upstream_options: Sequence[str] = ()  # more words on the command line of upstream's converter, for the text
    no_parity: str = ""  # why upstream's converter cannot make it
    equal: Callable[[Path], Path] | None = None  # what transformers loads instead
    as_source: Callable[[Any], None] = lambda model: None  # what only its publishers' code computes, put into `equal`
    no_logits: str = ""  # why nothing computes the source, or llama.cpp not the file: its bytes are the proof
    writes: bool = True  # text: else what is compared are vectors of tokens, and an embedding or scores
    no_scores: str = ""  # why llama.cpp's scores are not transformers'
    computed: Callable[[Path, Sequence[int]], np.ndarray] | None = None  # (folder, tokens) -> vectors, else
    scored: Callable[[Path, np.ndarray], np.ndarray] | None = None  # (folder, vectors of tokens) -> its scores, then
    image: tuple[int, int] | None = None  # height and width of an image whose embeddings are compared too
    sound: float = 0.0  # seconds of a sound whose embeddings are compared too
    heard: Callable[[Any, Mapping[str, Any]], Any] = lambda model, inputs: model.get_audio_features(**inputs)
    image_tolerance: float = 2e-3  # with ggml's rounding and GELU in transformers, embeddings and logits
    plain_image_tolerance: float | None = 2e-2  # without; None where llama.cpp orders tokens otherwise, with its `why`
    processed: Callable[[Any], Mapping[str, Any]] | None = (
        None  # pixels, as a processor that wants torchvision has them
    )
    exact_gelu: bool = False  # llama.cpp computes the tower's as transformers does, and has no table for it
    rows: tuple[int, int] | None = None  # tokens in a row of the image, and the id of what ends each row but the last
    as_llama_cpp_sees: Callable[[Any], None] = lambda model: None  # puts an order of its own graph into transformers


def loadable() -> dict[str, Case]:
    """Those whose checkpoint transformers itself loads."""
    return {name: case for name, case in cases().items() if not case.equal and not case.no_logits}


def cases() -> dict[str, Case]:
    """Every case of a model that writes text, by "family" or "family, variant"."""
    return {name: case for name, case in every_case().items() if case.writes}


def every_case() -> dict[str, Case]:
    """Every case, encoders too."""
    return {f"{name}, {variant}" if variant else name: case for name, variant, case in _all()}


def config_of(name: str, folder: Path) -> dict[str, Any]:
    """config.json of the checkpoint of a case, made in `folder`."""
    return dict(json.loads((every_case()[name].make(folder) / "config.json").read_text()))


def tried(found: Mapping[str, T]) -> dict[str, T]:
    """What a test run tries of them: the plain case of each family; all where ALL_VARIANTS is set (`make parity`)."""
    return {name: one for name, one in found.items() if ALL_VARIANTS or "," not in name}


def families() -> dict[str, list[Case]]:
    """Family -> its cases."""
    found: dict[str, list[Case]] = {}
    for name, _, case in _all():
        found.setdefault(name, []).append(case)
    return found


IMAGES_NOT_KNOWN = frozenset({"gemma4_vision", "internvl_chat", "janus", "lfm2_vl", "lighton_ocr", "paddleocr"})
"""Families with images of which validate/runtimes/_images knows no way into a prompt: they are validated on text."""


def _all() -> Iterator[tuple[str, str, Case]]:
    for module in sorted(m.name for m in pkgutil.iter_modules(checkpoints.__path__)):
        loaded = importlib.import_module(f"{checkpoints.__name__}.{module}")
        yield from ((module, variant, case) for variant, case in loaded.CASES.items())
