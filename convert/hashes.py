"""Content hashes of files, remembered by (path, size, mtime, ctime, inode): a checkpoint is read once for its hash.

Beside its hash that of a few samples of a file is kept, and read each time: a disk that goes bad changes no stamp.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from pathlib import Path

from convert.bundle import Artifact
from convert.files import CHUNK_BYTES, open_regular, replace_text
from convert.progress import Progress

SAMPLES, SAMPLE_BYTES = 16, 4096
# A file written within this time of being hashed may change again under the same time stamp (see git's "racy" index).
RACY_NS = 2_000_000_000
WORTH_WAITING_BYTES = 1 << 30  # of a file this large and this new: two seconds now, or reading it all again later


class HashMemory:
    """sha256 of files by path, kept in a JSON file. A memory that is lost or damaged only costs time."""

    def __init__(self, path: Path, *, trusting: bool = True) -> None:
        """`trusting` is False for one that reads every file whole once, whatever it knows of it."""
        self._path = path
        self._trusting = trusting
        self._read_now: set[str] = set()
        self._known: dict[str, list[object]] = {}
        try:
            self._known = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            self._known = {}
        self._changed = False

    def recall(self, path: Path) -> str | None:
        """The hash of an unchanged file, without reading it; None when it has to be read."""
        name = str(path.absolute())
        if not self._trusting and name not in self._read_now:
            return None
        try:
            stamp, digest, sample = self._known[name]
        except (KeyError, ValueError, TypeError):
            return None
        try:
            return str(digest) if stamp == _stamp(path) and sample == _sample(path) else None
        except OSError:
            return None

    def learn(self, artifacts: Iterable[Artifact]) -> None:
        """Remember files that were hashed while they were written."""
        for artifact in artifacts:
            self._remember(artifact.path, _stamp(artifact.path), artifact.sha256)

    def _remember(self, path: Path, stamp: list[int], sha256: str) -> None:
        name = str(path.absolute())
        self._known[name] = [stamp, sha256, _sample(path)]
        self._read_now.add(name)
        self._changed = True

    def follow(self, paths: Iterable[Path]) -> None:
        """Still know files that got or lost a name (a hard link): that moves ctime, and nothing else of the stamp."""
        for path in paths:
            known = self._known.get(str(path.absolute()))
            stamp = _stamp(path)
            if known and isinstance(known[0], list) and known[0][:3] == stamp[:3] and known[0] != stamp:
                known[0] = stamp
                self._changed = True

    def of(self, paths: Iterable[Path], progress: Progress) -> dict[Path, str]:
        """The hash of every file; those not remembered are read. Raises OSError for what cannot be read."""
        digests = {path: self.recall(path) for path in paths}
        unread = [path for path, digest in digests.items() if digest is None]
        if unread:
            progress.start("hashing the inputs", sum(path.stat().st_size for path in unread))
        for path in unread:
            digests[path] = self._read(path, progress)
        return {path: digest for path, digest in digests.items() if digest is not None}

    def _read(self, path: Path, progress: Progress) -> str:
        stamp, now = _stamp(path), time.time_ns()
        wait = max(stamp[2:4]) + RACY_NS - now
        if stamp[0] >= WORTH_WAITING_BYTES and 0 <= wait <= RACY_NS:
            time.sleep((wait + 1_000_000) / 1e9)
            stamp, now = _stamp(path), time.time_ns()
        hasher = hashlib.sha256()
        with open_regular(path, buffering=0) as file:
            while chunk := file.read(CHUNK_BYTES):
                hasher.update(chunk)
                progress.advance(len(chunk))
        if max(stamp[2:4]) + RACY_NS < now and stamp == _stamp(path):
            self._remember(path, stamp, hasher.hexdigest())
        return hasher.hexdigest()

    def save(self) -> None:
        """Write what was learnt; where the folder cannot be written, forget it."""
        if not self._changed:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(self._path, json.dumps(self._known, indent=0))
        except OSError:
            return
        self._changed = False


def _sample(path: Path) -> str:
    """A hash of the first and the last bytes of a file and of some between: a few pages, whatever its size."""
    size = path.stat().st_size
    step = max(SAMPLE_BYTES, (size - SAMPLE_BYTES) // (SAMPLES - 1))
    hasher = hashlib.blake2b(digest_size=16)
    with open_regular(path, buffering=0) as file:
        for start in range(0, size, step):
            file.seek(start)
            hasher.update(file.read(SAMPLE_BYTES))
    return hasher.hexdigest()


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
