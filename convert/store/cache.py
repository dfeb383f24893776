"""What a machine has of a store: files under their hashes, up to a size; who was not used for longest goes first.

FOLDER/blobs/<sha256>         the bytes; while in use they have other names too: losing this one frees nothing
FOLDER/used/<sha256>          when it was last asked for: its time stamp
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from convert.files import CHUNK_BYTES


class DamagedError(OSError):
    """What was brought is not what its name says."""


class NodeCache:
    """Files by hash in one folder that all processes of a machine share."""

    def __init__(self, folder: Path, limit_bytes: int | None = None) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        for name in ("blobs", "used"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def put_at(self, sha256: str, size: int, target: Path, bring: Callable[[Path], None]) -> None:
        """Have the file at `target`; where it is not here `bring` brings it, and raises for one that is damaged."""
        blob = self._blob(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        self._use(sha256)
        with contextlib.suppress(FileNotFoundError):
            return _link(blob, target)
        self.make_room(size)
        partial = self.folder / f".partial-{secrets.token_hex(8)}"
        try:
            bring(partial)
            partial.replace(blob)
        finally:
            partial.unlink(missing_ok=True)
        return _link(blob, target)

    def add(self, file: Path, sha256: str) -> None:
        """Know a file that was made here; it has to stay as it is."""
        self._use(sha256)
        if not self._blob(sha256).exists():
            self.make_room(file.stat().st_size)
            with contextlib.suppress(FileExistsError, OSError):
                os.link(file, self._blob(sha256))

    def make_room(self, size: int) -> None:
        """Let go of what was not used for longest, until so many bytes more are within the limit."""
        if self.limit_bytes is None:
            return
        with self._alone():
            found = sorted(self._files())
            total = sum(size for _, size, _ in found)
            for _, freed, blob in found:
                if total + size <= self.limit_bytes:
                    break
                blob.unlink(missing_ok=True)
                (self.folder / "used" / blob.name).unlink(missing_ok=True)
                total -= freed

    def empty(self) -> None:
        """Let go of all."""
        NodeCache(self.folder, 0).make_room(0)

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """When it was used, its size, and where it is, of each; what has another name takes no room of its own."""
        for entry in os.scandir(self.folder / "blobs"):
            with contextlib.suppress(FileNotFoundError):
                status, used = entry.stat(), self.folder / "used" / entry.name
                if status.st_nlink == 1:
                    yield used.stat().st_mtime if used.exists() else 0.0, status.st_size, Path(entry.path)

    def _use(self, sha256: str) -> None:
        used = self.folder / "used" / sha256
        used.touch()

    def _blob(self, sha256: str) -> Path:
        return self.folder / "blobs" / sha256

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with open(self.folder / "lock", "a", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def file_sha256(path: Path) -> str:
    """The hash of a file's bytes."""
    hasher = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()


def _link(blob: Path, target: Path) -> None:
    """Have the file under another name, by its bytes where that cannot be."""
    try:
        os.link(blob, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(blob, target)
