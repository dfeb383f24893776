"""What a file or folder that somebody else made is, and what belongs to it: each format says what it recognizes.

Nothing here reads a weight, and nothing a file says of itself is believed before it was checked: sizes against the
file, names against the folder. What no runtime of ours runs is refused.
"""

from __future__ import annotations

from pathlib import Path

from convert.bundle import Artifact, Role
from convert.errors import InputError
from convert.files import open_regular
from convert.formats.base import Format, Found
from convert.source.companions import ROLES, collect
from convert.source.untrusted import HUB_REPO_PREFIX, listed, refuse_pointer

BESIDE = tuple(dict.fromkeys(role for role in ROLES.values() if role is not Role.CARD))
CONFIG = "config.json"
NEEDED = ("tokenizer.json", "tokenizer.model", "vocab.json")  # one of them
START_BYTES = 64


def find(path: Path, projector: Path | None, formats: list[Format]) -> Found:
    """What lies at `path`, by the first of the formats that recognizes it.

    Raises InputError for what is broken, for what cannot be run, and for a projector that does not belong to it.
    """
    wanted = wanted_of(formats)
    if not path.is_dir():
        _check_file(path, wanted)
    if projector is not None:
        formats = [format_ for format_ in formats if format_.takes_projector]
    for format_ in sorted(formats, key=lambda format_: format_.guesses):
        if found := format_.recognize(path, projector):
            return found
    if projector is not None:
        what = "a folder" if path.is_dir() else f"{path.name}, which is not a GGUF file"
        raise InputError(str(projector), f"is the `projector` of {what}", wanted_of(formats), "leave `projector` out")
    raise _unknown(path, wanted, formats)


def wanted_of(formats: list[Format]) -> str:
    """What can be validated, in words."""
    return ", or ".join(format_.wanted for format_ in formats if format_.wanted)


def _check_file(path: Path, wanted: str) -> None:
    if not path.is_file():
        got = "is neither a file nor a folder" if path.exists() else "does not exist"
        if path.is_symlink() and not path.exists():
            got = f"is a link to {path.readlink()}, which does not exist"
        raise InputError(str(path), got, wanted, "check the path")
    start = start_of(path)
    refuse_pointer(path, start)
    if start[8:9] == b"{" and start[6:8] == b"\0\0":
        raise InputError(str(path), "is the weights of a checkpoint", wanted, f"name its folder, {path.parent}")
    if start[:2] in (b"PK", b"\x80\x02"):
        raise InputError(str(path), "is a pickle or another archive", wanted, "use it as a recipe's model instead")


def _unknown(path: Path, wanted: str, formats: list[Format]) -> InputError:
    if not path.is_dir():
        return InputError(str(path), "is not a file of a known format", wanted)
    names = names_in(path)
    for format_ in formats:
        if format_.magic and (files := [name for name in names if _begins(path / name, format_.magic)]):
            got = f"holds {format_.title} files: {listed(files)}"
            return InputError(str(path), got, "one of them", "name the file itself")
    if not names:
        return InputError(str(path), "is an empty folder", wanted, "check the path")
    if CONFIG in names:
        got = f"holds a config.json and no weights of a known format beside it, only {listed(names)}"
        return InputError(str(path), got, wanted, "use it as a recipe's model where its weights are pickles")
    return InputError(str(path), f"holds no model of a known format, only {listed(names)}", wanted)


def names_in(folder: Path) -> list[str]:
    """The names of what lies in a folder, in order. Raises InputError where it cannot be listed."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise InputError(str(folder), f"cannot be listed ({error.strerror})") from None


def start_of(path: Path) -> bytes:
    """The first bytes of a file. Raises InputError where it cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read(START_BYTES)
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})") from None


def _begins(path: Path, magic: bytes) -> bool:
    return path.is_file() and start_of(path).startswith(magic)


def artifact(kind: str, path: Path) -> Artifact:
    """The file as it lies there; its hash is worked out when the step runs."""
    return Artifact(kind, path, path.stat().st_size)


def with_companions(folder: Path, found: Found, words: str) -> Found:
    """With the tokenizer and its like, which the format takes from its own folder."""
    snapshot = folder.parent.name == "snapshots" and folder.parent.parent.name.startswith(HUB_REPO_PREFIX)
    home = folder.parent.parent.parent if snapshot else None  # in the hub's cache links lead to its blobs
    roles = {role: tuple(artifact("text", path) for path in paths) for role, paths in collect(folder, home).items()}
    names = [a.path.name for files in roles.values() for a in files]
    if CONFIG not in names or not set(NEEDED) & set(names):
        remedy = "copy them from the model's folder"
        raise InputError(
            str(folder),
            "has no tokenizer or config.json beside the weights",
            f"{CONFIG} and the tokenizer's files",
            remedy,
        )
    beside: dict[Role, tuple[Artifact, ...]] = {role: roles.get(role, ()) for role in BESIDE}
    return Found(found.weights, words, found.projector, beside)
