"""What a step's key is made from: as JSON, as a hash, and what changed between two, in words. A leaf."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from convert.json_types import JsonObject


def difference(old: JsonObject, new: JsonObject) -> str:
    """What changed between two sets of inputs of a key, in a few words."""
    changes = []
    for part in new.keys() | old.keys():
        before, after = old.get(part), new.get(part)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            names = sorted({n for n, _ in _items(before) ^ _items(after)})
            changes += [_change(part, n, before.get(n), after.get(n)) for n in names]
        else:
            changes.append(_change("stage", part, before, after))
    return "; ".join(sorted(changes)) or "changed"


def _items(values: JsonObject) -> set[tuple[str, str]]:
    return {(name, json.dumps(value, sort_keys=True)) for name, value in values.items()}


def _change(part: str, name: str, before: object, after: object) -> str:
    if part == "inputs":
        return f"input '{name}' changed"
    if part == "files":
        return f"{name} " + ("is new" if before is None else "is gone" if after is None else "changed")
    word = {"options": "option", "tools": "tool", "stage": "stage"}[part]
    return f"{word} {name} changed: {_short(before)} -> {_short(after)}"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def sha256(value: object) -> str:
    """The hash of JSON data; the order of its keys does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def plain(value: object) -> Any:
    """Options as JSON. A path becomes its last part: what the file holds counts, not where it lies."""
    if isinstance(value, Path):
        return Path(os.path.normpath(value.absolute())).name  # of `.` and `..` too: a folder's name is the model's
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(v) for v in value)
    return value


def label(path: Path, paths: Iterable[Path]) -> str:
    """The file's name; where several files have it, their paths below the folder that holds them all.

    Never an absolute path: a key is the same wherever the files lie, and a manifest tells nobody where that is.
    """
    same = {os.path.normpath(p.absolute()) for p in paths if p.name == path.name}
    if len(same) < 2:  # one file may be named twice, in two ways
        return path.name
    return Path(os.path.relpath(path.absolute(), os.path.commonpath(same))).as_posix()


def version(distribution: str) -> str:
    """The installed version of a distribution, or that there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
