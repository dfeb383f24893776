"""Files from strangers: which of them may be opened, and JSON from them that is what it claims to be. A leaf."""

from __future__ import annotations

import codecs
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

from convert.errors import InputError
from convert.files import open_regular
from convert.json_types import JsonDict

MAX_JSON_BYTES = 64 << 20  # the largest tokenizer.json of the field is about 40 MB
LFS_POINTER = b"version https://git-lfs"
DOWNLOADED = (".cache/huggingface", ".git")  # what `hf download --local-dir` and `git clone` leave in a folder
MADE_HERE_NS = 2_000_000_000  # between a link's own time and that of its entry, when nobody restored the former
LONGEST_PATH = 1024  # characters that a message shows
HUB_REPO_PREFIX = "models--"
MARKS = (  # byte-order marks, the longer first, and what a text that begins with one is decoded as
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
SHOWN_BEFORE, SHOWN_OF_LINE = 30, 60  # characters of a broken line, before the place and in all


def shown(text: object, limit: int = 80) -> str:
    """`text` as it may stand in a message: quoted, one line, no control characters, never long."""
    quoted = repr(text if len(str(text)) <= limit else f"{str(text)[:limit]}…")
    return quoted if quoted.isprintable() else ascii(text)[: limit + 2]


def listed(names: Iterable[str], limit: int = 4) -> str:
    """The first few names and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(shown, names[:limit])) + more


def inside(folder: Path, name: str, where: Path | None = None) -> Path:
    """The regular file called `name` in `folder`; `where` is the file that names it.

    `name` is a bare file name. A symbolic link is followed when it ends in the same folder; in the hub's cache
    (`models--org--name/snapshots/<commit>/`), in the same repository's `blobs/` or the `blobs/` that the cache's
    repositories share (huggingface_hub 2); and anywhere else when `check_link` lets it. Raises InputError otherwise.
    """
    where = where or folder
    check_bare(name, where)
    path = folder / name
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, in Python 3.11 and 3.12
        raise _unreadable(path, where, error) from None
    if not any(real.is_relative_to(root) for root in _roots(folder.resolve())):
        check_link(path, folder, real)
    if not stat.S_ISREG(mode):
        raise InputError(str(path), "is not a regular file", "a file")
    return path


def check_link(path: Path, folder: Path, target: Path) -> None:
    """Raise InputError unless the link `path`, which leads out of `folder` to `target`, was made by this user here.

    Shards are often kept on another disk. What a stranger's archive or repository brings may not point at the user's
    files: a template that is a link to a secret would be published with the model. Such a link is not this user's, or
    older than its place here (an unpacker restores its time, `ln` does not), or lies in a folder that a download left
    its marks in.
    """
    came = _origin(path, folder)
    if not came and os.access(target, os.R_OK):
        return
    got = f"is a link that leads out of its folder, to {shown(str(target), LONGEST_PATH)}"
    if not came:
        raise InputError(str(path), f"{got}, which cannot be read", "a file that this user may read")
    remedy = "if you trust it, make the link again yourself (`ln -sfn`), or put a copy of the file in its place"
    raise InputError(str(path), f"{got}, and {came}", "a file in the folder, or a link of your own", remedy)


def _origin(path: Path, folder: Path) -> str:
    """Why the link is not taken for one that this user made here; empty when it is."""
    if len(_roots(folder.resolve())) > 1:
        return "the folder is of the hub's cache"
    mark = next((mark for mark in DOWNLOADED if (folder / mark).exists()), "")
    if mark:
        return f"the folder was downloaded (it has {mark})"
    for link in (each for each in (path, path.parent) if each.is_symlink() and each != folder):
        status = link.lstat()
        if status.st_uid != os.getuid():
            return "the link is another user's"
        if abs(status.st_ctime_ns - status.st_mtime_ns) > MADE_HERE_NS:
            return "the link was unpacked or copied here, not made here"
    return ""


def check_bare(name: str, where: Path) -> None:
    """Raise InputError unless `name`, which the file `where` says, is a bare file name on every system."""
    parts = {PurePosixPath(name).name, PureWindowsPath(name).name}
    if parts != {name} or name in ("", ".", "..") or "\0" in name:
        raise InputError(
            str(where), f"names a file outside its folder, {shown(name)}", "a bare file name", "do not trust this model"
        )


def _roots(folder: Path) -> tuple[Path, ...]:
    """Where files of `folder` may really lie."""
    repository = folder.parent.parent
    if folder.parent.name == "snapshots" and repository.name.startswith(HUB_REPO_PREFIX):
        return folder, repository / "blobs", repository.parent / "blobs"
    return (folder,)


def _unreadable(path: Path, where: Path, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError):
        if path.is_symlink():
            return InputError(str(path), "is a link to a file that is not there", "", "download the file again")
        named = "" if where == path.parent else f"{where.name} names "
        return InputError(str(where), f"{named}{shown(path.name)}, which is not there", "", "download the file again")
    return InputError(str(path), f"cannot be read ({getattr(error, 'strerror', None) or error})")


def read_bytes(path: Path, limit: int) -> bytes:
    """What the file at `path` holds. Raises InputError when it cannot be read or is larger than `limit` bytes."""
    try:
        with open_regular(path) as file:
            data = file.read(min(os.fstat(file.fileno()).st_size, limit) + 1)
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})") from None
    if len(data) > limit:
        raise InputError(str(path), f"is larger than {limit >> 20} MiB", "a file of at most that size")
    return data


def read_object(path: Path, limit: int = MAX_JSON_BYTES, *, unique: bool = False) -> JsonDict:
    """The JSON object in the file at `path`, of at most `limit` bytes. Raises InputError; `unique` as below."""
    raw = read_bytes(path, limit)
    refuse_pointer(path, raw)
    return parse_object(str(path), raw, unique=unique)


def parse_object(where: str, raw: bytes, *, unique: bool = False) -> JsonDict:
    """The JSON object in `raw`; with `unique`, a key that stands twice is an error, else the last one counts.

    Raises InputError with line, column and the text there. `NaN` and `Infinity` pass, as in every reader of config.json
    written in Python.
    """
    try:
        text = decoded(where, raw)
    except InputError as error:
        got, remedy = f"is not valid JSON ({error.problem.got})", "save it as UTF-8, or download it again"
        raise InputError(where, got, "", remedy) from None
    try:
        value = json.loads(text, object_pairs_hook=_unique if unique else None)
    except RecursionError:
        raise InputError(where, "is JSON nested too deeply") from None
    except json.JSONDecodeError as error:
        raise not_json(where, error) from None
    except ValueError as error:  # a key twice, or a number of thousands of digits
        raise InputError(where, f"is not valid JSON ({shown(str(error), 160)[1:-1]})") from None
    if not isinstance(value, dict):
        raise InputError(where, f"holds a JSON {type(value).__name__}", "a JSON object")
    return value


def not_json(where: str, error: json.JSONDecodeError) -> InputError:
    """What to say of a text that is no JSON: `where` with line and column, what stands there, and what to do."""
    text, at = error.doc, error.pos
    line = text[text.rfind("\n", 0, at) + 1 :].partition("\n")[0].strip()
    before = text[:at].rstrip()
    if (before.endswith(",") and text[at : at + 1] in ("}", "]")) or error.msg.startswith("Illegal trailing comma"):
        got, remedy = "a comma with nothing after it", "take the comma away"
    elif at >= len(text.rstrip()):
        got, remedy = "it ends too early", "the file was cut short: download it again"
    else:
        got, remedy = error.msg, "mend the text there, or download the file again"
    column = at - text.rfind("\n", 0, at)
    start = max(0, min(column - 1, len(line)) - SHOWN_BEFORE)
    said = f"is not valid JSON ({got}), the text there is {shown(line[start : start + SHOWN_OF_LINE])}"
    return InputError(f"{where}:{error.lineno}:{column}", said, "", remedy)


def decoded(where: str, raw: bytes) -> str:
    """The text in `raw`: UTF-8, or UTF-16 or UTF-32 that says so in its first bytes, which are no part of it.

    Raises InputError for anything else.
    """
    encoding = next((name for mark, name in MARKS if raw.startswith(mark)), "utf-8")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        got = f"byte {error.start} is not {'UTF-8' if encoding.startswith('utf-8') else encoding.upper()}"
        raise InputError(where, got, "text in UTF-8", "save the file as UTF-8, or download it again") from None


def is_plain(raw: bytes) -> bool:
    """Whether every reader takes these bytes for the text that `decoded` gives: many refuse a byte-order mark."""
    return not any(raw.startswith(mark) for mark, _ in MARKS)


def refuse_pointer(path: Path, start: bytes) -> None:
    """Raise InputError when a file that starts with `start` is empty or git-lfs's stand-in for the real one."""
    if not start:
        raise InputError(str(path), "is empty", "", "download the file again")
    if start.startswith(LFS_POINTER):
        raise InputError(
            str(path), "is a git-lfs pointer, not the file itself", "", "run `git lfs pull` in that repository"
        )


def _unique(pairs: list[tuple[str, object]]) -> JsonDict:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(twice)} is there twice")
    return result
