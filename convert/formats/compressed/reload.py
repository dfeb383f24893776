"""Whether a finished folder is the model again.

    convert.child.run(["convert.formats.compressed.reload", "FOLDER", "LIST.json"])

In a process that has seen nothing but the folder, transformers loads it; missing and unexpected keys, a quantized
module that came back as a plain one or the other way round, and numbers that are not finite are what is looked for:
transformers itself only warns of the first two and is silent about the others.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convert import messages
from convert.formats.compressed.folder import canonical
from convert.json_types import JsonObject
from convert.source.untrusted import listed

if TYPE_CHECKING:
    from torch import nn

    from validate.runtimes.gptqmodel import GptqModelSession
    from validate.runtimes.transformers import TransformersSession

IMAGE_SIDE = 56  # pixels: four image tokens
KEY_KINDS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


def main(folder: str, list_file: str) -> None:
    """Report what is wrong."""
    wanted = json.loads(Path(list_file).read_text(encoding="utf-8"))
    messages.parent().result({"wrong": list(faults(Path(folder), wanted["quantized"], wanted["kept"]))})


def faults(folder: Path, quantized: Sequence[str], kept: Sequence[str]) -> Iterator[str]:
    """What is not as it should be, in words; nothing when all is well."""
    from convert.model import engine
    from validate.runtimes import RuntimeFailure, gptqmodel

    if engine.is_needed(folder):
        yield from _faults_by_layer(folder, quantized, kept)
        return
    try:
        session = gptqmodel.GptqModelSession(folder, threads=None, refuse=False)
    except RuntimeFailure as error:
        yield str(error)
        return
    with session:
        yield from _keys(session.keys)
        yield from _modules(session, quantized, kept)
        try:
            yield from _numbers(session)
        except RuntimeFailure as error:
            yield str(error)


def _faults_by_layer(folder: Path, quantized: Sequence[str], kept: Sequence[str]) -> Iterator[str]:
    """The same of a folder that is too large to be loaded as a whole: its matrices are made whole layer by layer."""
    from convert.model import engine
    from validate.runtimes import RuntimeFailure, _compressed

    packed = set(_compressed.quantized_modules(folder))
    yield from _changed([n for n in quantized if n not in packed], [n for n in kept if n in packed])
    try:
        with engine.RUNTIME.open(folder / "config.json") as session:
            yield from _numbers(session)
    except RuntimeFailure as error:  # of keys that are missing or unexpected too
        yield str(error)


def _keys(loading: JsonObject) -> Iterator[str]:
    for kind in KEY_KINDS:
        found = sorted(map(str, loading.get(kind) or ()))
        if found:
            yield f"{len(found)} {kind.replace('_', ' ')}: {listed(found)}"


def _modules(session: GptqModelSession, quantized: Sequence[str], kept: Sequence[str]) -> Iterator[str]:
    model, decoded = session.model, set(map(canonical, session.decoded))
    loaded = {canonical(name): module for name, module in model.named_modules()}
    base = f"{model.base_model_prefix}."  # which some checkpoints leave out: h.0.mlp of transformer.h.0.mlp
    loaded = {**{name.removeprefix(base): module for name, module in loaded.items()}, **loaded}
    plain = [n for n in quantized if canonical(n) not in decoded and not _is_quantized(loaded.get(canonical(n)))]
    packed = [n for n in kept if canonical(n) in decoded or _is_quantized(loaded.get(canonical(n)))]
    yield from _changed(plain, packed)


def _changed(plain: Sequence[str], packed: Sequence[str]) -> Iterator[str]:
    """Of quantized modules that are plain, and of plain ones that are quantized."""
    if plain:
        yield f"{len(plain)} quantized modules came back as plain ones: {listed(plain)}"
    if packed:
        yield f"{len(packed)} modules that are not quantized came back as quantized: {listed(packed)}"


def _is_quantized(module: nn.Module | None) -> bool:
    return hasattr(module, "qweight") or hasattr(module, "weight_scale")


def _knows_images(session: TransformersSession) -> bool:
    """Whether a way is known in which the family's images get into a prompt; else text alone is looked at."""
    from validate.runtimes import Unsupported

    try:
        session.image_prompt("What is this?")
    except Unsupported:
        return False
    return True


def _numbers(session: TransformersSession) -> Iterator[str]:
    import numpy as np

    if not np.isfinite(session.logits(session.tokenize("The quick brown fox, 1 2 3."))).all():
        yield "logits that are not finite"
    if session.identity().has_vision and _knows_images(session):
        drawn = np.tile(np.linspace(0, 255, IMAGE_SIDE).astype(np.uint8)[:, None, None], (1, IMAGE_SIDE, 3))
        if not np.isfinite(session.image_embeddings(drawn)).all():
            yield "image embeddings that are not finite"
        if not np.isfinite(session.image_logits(session.image_prompt("What is this?"), drawn)).all():
            yield "logits after an image that are not finite"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
