"""OpenVINO folders that somebody else made: optimum-intel's, those of huggingface.co/OpenVINO."""

from __future__ import annotations

import json
from pathlib import Path

from convert.errors import InputError
from convert.formats.base import Found
from convert.formats.existing import artifact, names_in, with_companions
from convert.formats.openvino.config import NAME as CONFIG
from convert.formats.openvino.parts import EMBEDDER, LANGUAGE, TEXT
from convert.source.untrusted import inside

UNKNOWN = "ir"  # the precision of a folder that does not say it


def recognize(path: Path, projector: Path | None) -> Found | None:
    """The folder that holds a model with logits; None for another. Raises InputError where a file of it is missing."""
    del projector
    names = names_in(path) if path.is_dir() else []
    main = next((name for name in (TEXT, LANGUAGE) if f"{name}.xml" in names), None)
    if main is None:
        return None
    if main == LANGUAGE and f"{EMBEDDER}.xml" not in names:
        raise InputError(str(path), f"has {LANGUAGE}.xml and no {EMBEDDER}.xml", "both", "download it again")
    models = [main, *(name[:-4] for name in names if name.endswith(".xml") and name != f"{main}.xml")]
    if lost := [f"{name}.bin" for name in models if f"{name}.bin" not in names]:
        raise InputError(str(path), f"lacks {lost[0]}, the weights beside its XML", "both", "download it again")
    files = [inside(path, f"{name}{ending}") for name in models for ending in (".xml", ".bin")]
    files += [inside(path, CONFIG)] if CONFIG in names else []
    type_ = _type(path / CONFIG) if CONFIG in names else UNKNOWN
    kinds = [f"openvino/{type_}", *([f"openvino-part/{type_}"] * (len(files) - 1))]
    weights = tuple(artifact(kind, file) for kind, file in zip(kinds, files, strict=True))
    return with_companions(path, Found(weights, ""), f"an OpenVINO folder, {type_}")


def _type(path: Path) -> str:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(str(path), f"cannot be read ({error})", "a JSON object", "download it again") from None
    word = said.get("dtype") if isinstance(said, dict) else None
    return word if isinstance(word, str) and word.isalnum() else UNKNOWN
