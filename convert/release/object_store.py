"""Repositories in an object store, by fsspec: s3://, gs://, az:// and what else it knows.

An object is written whole or not at all, but a repository is many. SHA256SUMS is written last and taken away first: who
finds it finds all that it names. Meanwhile SHA256SUMS.partial names what is there already, for a run that goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from convert.errors import StageError
from convert.progress import Progress
from convert.release.sums import SUMS, read_sums, write_sums
from convert.retry import reason, retrying
from convert.store.objects import open_store, passes

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

PARTIAL = f"{SUMS}.partial"


def publish(url: str, folder: Path, progress: Progress) -> str:
    """Send what is not there yet: new, changed or unchanged. Raises StageError for what the store refuses."""
    system, home = open_store(url)
    try:
        return _publish(system, home, folder, progress)
    except PermissionError as error:
        raise StageError(url, f"may not be written to ({reason(error)})", "", "check the credentials") from None
    except FileNotFoundError as error:
        raise StageError(url, f"is not there ({reason(error)})", "", "make the bucket first") from None
    except (OSError, RuntimeError) as error:
        remedy = "run it again: what is there already is not sent again"
        raise StageError(url, reason(error), "", remedy) from None


def _publish(system: AbstractFileSystem, home: str, folder: Path, progress: Progress) -> str:
    sums = (folder / SUMS).read_text(encoding="utf-8")
    wanted = read_sums(sums)
    before, begun = (_read(system, f"{home}/{name}", progress) for name in (SUMS, PARTIAL))
    if before == sums and _sizes(system, home, wanted, folder):
        return "unchanged"
    known = {**_parsed(before), **_parsed(begun)}
    there = {
        path: digest
        for path, digest in wanted.items()
        if known.get(path) == digest and _size(system, f"{home}/{path}") == (folder / path).stat().st_size
    }
    missing = [path for path in wanted if path not in there]
    progress.start(f"sending {folder.name}", sum((folder / path).stat().st_size for path in missing))
    _write(system, f"{home}/{PARTIAL}", write_sums(there), progress)
    if before is not None:
        _remove(system, f"{home}/{SUMS}", progress)
    for path in missing:
        _put(system, folder / path, f"{home}/{path}", progress)
        there[path] = wanted[path]
        _write(system, f"{home}/{PARTIAL}", write_sums(there), progress)
    for path in sorted(set(known) - set(wanted)):
        _remove(system, f"{home}/{path}", progress)
    if not _sizes(system, home, wanted, folder):
        raise OSError("a file has another size there than here, after it was sent")
    _write(system, f"{home}/{SUMS}", sums, progress)
    _remove(system, f"{home}/{PARTIAL}", progress)
    return "new" if before is None and begun is None else "changed"


def _parsed(text: str | None) -> dict[str, str]:
    try:
        return read_sums(text or "")
    except ValueError:
        return {}


def _sizes(system: AbstractFileSystem, home: str, wanted: Mapping[str, str], folder: Path) -> bool:
    """Whether all is there, with its size."""
    system.invalidate_cache()
    return all(_size(system, f"{home}/{path}") == (folder / path).stat().st_size for path in wanted)


def _size(system: AbstractFileSystem, path: str) -> int | None:
    try:
        size = system.info(path)["size"]
    except FileNotFoundError:
        return None
    return int(size)


def _read(system: AbstractFileSystem, path: str, progress: Progress) -> str | None:
    def read() -> str | None:
        try:
            return bytes(system.cat_file(path)).decode("utf-8", errors="replace")
        except FileNotFoundError:
            return None

    return retrying(path, read, progress, passes)


def _write(system: AbstractFileSystem, path: str, text: str, progress: Progress) -> None:
    retrying(path, lambda: system.pipe_file(path, text.encode()), progress, passes)


def _put(system: AbstractFileSystem, file: Path, path: str, progress: Progress) -> None:
    retrying(path, lambda: system.put_file(str(file), path), progress, passes)
    progress.advance(file.stat().st_size)


def _remove(system: AbstractFileSystem, path: str, progress: Progress) -> None:
    def remove() -> None:
        if system.exists(path):
            system.rm_file(path)

    retrying(path, remove, progress, passes)
