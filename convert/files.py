"""Files that are hashed while they are written, and names that appear whole or not at all. A leaf."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol

from convert.bundle import Artifact

STATE_FOLDER = ".convert"  # beside the outputs: what a run remembers, and nobody misses
CHUNK_BYTES = 8 << 20
WRITEBACK_BYTES = 32 << 20  # the disk is set to work after so many, so that the fsync at the end has little left to do


class Buffer(Protocol):
    """Anything with bytes in it: bytes, memoryview, a contiguous array."""

    def __buffer__(self, flags: int, /) -> memoryview: ...


class HashedFile:
    """A new file, written in order from its first byte to its last, hashed on the way.

    Leave the `with` block and it is on the disk (fsync); `artifact(kind)` then describes it without reading it
    again. When the block ends in an error the file is removed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._started = 0  # bytes the disk was told to write
        self._hash = hashlib.sha256()
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115 - closed by __exit__

    def write(self, data: bytes | Buffer) -> None:
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self.size += len(view)
        while view:
            view = view[self._file.write(view) :]
        if self.size - self._started >= WRITEBACK_BYTES:
            self._start_writeback()

    def _start_writeback(self) -> None:
        """Let the disk begin: Linux writes the dirty pages of a range that is not needed, and keeps them meanwhile."""
        if hasattr(os, "posix_fadvise"):
            length = self.size - self._started
            os.posix_fadvise(self._file.fileno(), self._started, length, os.POSIX_FADV_DONTNEED)
        self._started = self.size

    def pad_to(self, alignment: int) -> None:
        self.write(bytes(-self.size % alignment))

    def artifact(self, kind: str) -> Artifact:
        return Artifact(kind, self.path, self.size, self._hash.hexdigest())

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            os.fsync(self._file.fileno())
        self._file.close()
        if error is not None:
            self.path.unlink(missing_ok=True)


def write_text(path: Path, text: str, kind: str = "text") -> Artifact:
    """The artifact of a new text file at `path`, hashed and on the disk."""
    with HashedFile(path) as file:
        file.write(text.encode())
    return file.artifact(kind)


def open_regular(path: Path, buffering: int = -1) -> BinaryIO:
    """The file at `path`, open for its bytes. Raises OSError for what is none: a pipe is silent, a device has no end.

    Looked at once it is open, so that nothing else can be put in its place meanwhile.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # else a pipe waits for who writes
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return open(descriptor, "rb", buffering=buffering)
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, f"it is a {'pipe' if stat.S_ISFIFO(mode) else 'device'}, not a file", str(path))


def read_regular(path: Path) -> bytes:
    """What is in the file at `path`. Raises OSError as `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def cache_folder() -> Path:
    """Where what is known of this machine and its files is kept: losing it costs time and nothing else.

    $CONVERT_CACHE_HOME, else $XDG_CACHE_HOME/convert, else ~/.cache/convert. Raises RuntimeError without a home folder.
    """
    if own := os.environ.get("CONVERT_CACHE_HOME"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convert"


def replace_text(path: Path, text: str) -> None:
    """Put `text` under `path` in one step: a reader sees the old file or the new one, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    write_text(partial, text)
    partial.replace(path)
    fsync_folder(path.parent)


def portable(word: str) -> str:
    """A path, or an option with one (`--out=/tmp/x`), that tells nobody how this machine's folders are called.

    Relative to the current folder where it lies below that, else its last part. Words that are no absolute path stay.
    """
    head, mark, tail = word.partition("=")
    if mark and head.startswith("-"):
        return f"{head}={portable(tail)}"
    path = Path(word)
    if not path.is_absolute():
        return word
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else path.name


def beside(folder: Path, suffix: str) -> Path:
    """The folder's neighbour with a longer name: `.partial` while it is built, `.old` while it is replaced."""
    return folder.with_name(folder.name + suffix)


def replace_folder(partial: Path, final: Path) -> None:
    """Give a finished folder its final name; at no moment does that name hold a part."""
    for folder, _, _ in os.walk(partial):
        fsync_folder(Path(folder))
    old = beside(final, ".old")
    if final.exists():
        final.rename(old)
    partial.rename(final)
    fsync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(final: Path) -> None:
    """Clear what a killed run left: a half-built folder goes, a folder caught in the middle of its rename returns."""
    shutil.rmtree(beside(final, ".partial"), ignore_errors=True)
    old = beside(final, ".old")
    if old.exists() and not final.exists():
        old.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut; a file system that cannot is left alone."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
