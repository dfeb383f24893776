"""A checkpoint as people name it: a folder, its config.json, a folder of the hub's cache, or org/name[@revision]."""

from __future__ import annotations

import re
from pathlib import Path

from convert.errors import InputError
from convert.progress import Silent
from convert.source import hub
from convert.source.stage import SourceOptions
from convert.source.untrusted import HUB_REPO_PREFIX

FILES = (".safetensors", ".gguf", ".onnx", ".engine", ".bin", ".json")  # names of files, not of models on the hub


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is a folder, a config.json, or the name of a model of the hub rather than of a file."""
    if path.is_dir() or (path.name == "config.json" and path.is_file()):
        return True
    if path.exists() or path.is_symlink() or path.suffix in FILES or path.is_absolute():
        return False
    named, revision = hub_name(str(path))
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", named):
        return False
    return ("/" in named and not path.parent.is_dir()) or hub.cached(named, revision) is not None


def options_for(path: Path) -> SourceOptions:
    """The source stage's options for a folder, a folder of the hub's cache, or a hub model, name[@revision].

    Raises InputError for a hub model that is not in the cache.
    """
    folder = path.parent if path.name == "config.json" else path
    if not folder.is_dir():
        named, revision = hub_name(str(path))
        hub.locate(named, revision, download=False, progress=Silent())
        return SourceOptions.model_validate({"hub": named, "revision": revision})
    if folder.name.startswith(HUB_REPO_PREFIX) and (folder / "snapshots").is_dir():
        folder = _snapshot(folder)
    home = folder.absolute().parent.parent
    if folder.absolute().parent.name != "snapshots" or not home.name.startswith(HUB_REPO_PREFIX):
        return SourceOptions.model_validate({"path": folder})
    name = home.name.rpartition("--")[2]
    known = {"name": name} if re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}", name) else {}
    return SourceOptions.model_validate({"path": folder, **known})


def hub_name(text: str) -> tuple[str, str]:
    """The model and the revision that `org/name[@revision]` says."""
    named, _, revision = text.partition("@")
    return named, revision or hub.DEFAULT_REVISION


def _snapshot(repository: Path) -> Path:
    """The snapshot that the repository's main is, or the only one. Raises InputError."""
    try:
        commit = (repository / "refs" / hub.DEFAULT_REVISION).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        commit = ""
    if hub.COMMIT.fullmatch(commit) and (repository / "snapshots" / commit).is_dir():
        return repository / "snapshots" / commit
    found = sorted(path for path in (repository / "snapshots").iterdir() if path.is_dir())
    if len(found) != 1:
        raise InputError(str(repository), f"has {len(found)} snapshots and no main", "one", "name a folder of them")
    return found[0]
