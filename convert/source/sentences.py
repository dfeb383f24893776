"""How an encoder's vectors of tokens become one of a text: sentence-transformers' files among a model's companions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from convert.bundle import Role
from convert.errors import InputError
from convert.source.companions import ROLES, read_json, read_text
from convert.source.untrusted import not_json
from validate.sentences import FILE, NotKnown, Sentences, parse

WEIGHTS = "model.safetensors"  # of a matrix behind the pooling, in its folder


def sentence_files(folder: Path) -> dict[str, Path]:
    """Those in a checkpoint's folder, by their names in it."""
    patterns = [pattern for pattern, role in ROLES.items() if role is Role.SENTENCES]
    return {path.relative_to(folder).as_posix(): path for pattern in patterns for path in folder.glob(pattern)}


def read_sentences(files: Mapping[str, Path]) -> Sentences | None:
    """What the files say; None where there is no modules.json, or it pools nothing.

    Raises InputError for files that are broken or missing, and for what is asked and not known here.
    """
    if FILE not in files:
        return None
    where, text = str(files[FILE]), read_text(files[FILE])
    try:
        return parse(json.loads(text), lambda folder: _config(files, folder))
    except json.JSONDecodeError as error:
        raise not_json(where, error) from error
    except NotKnown as error:
        raise InputError(where, str(error)) from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits; brackets without end
        raise InputError(where, f"not usable JSON ({type(error).__name__})") from error


def _config(files: Mapping[str, Path], folder: str) -> Mapping[str, object]:
    name = f"{folder}/config.json"
    if name not in files:
        raise InputError(str(files[FILE]), f"names {folder}, and there is no {name}", "a folder 0_… to 9_… beside it")
    return read_json(files[name])
