"""A file's sha256, and those of its parts: the whole says whether a bit flipped, the parts say where."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from convert.files import CHUNK_BYTES, open_regular, replace_text
from convert.json_types import JsonDict, JsonObject
from convert.progress import Progress

SMALLEST_PART = 64 << 10
MOST_PARTS = 1024  # of a file: 18 kB of hashes at most, and 64 MiB a part at 64 GiB
PART_DIGITS = 16  # hexadecimal, of a part's hash: it names a place, what counts is the hash of the whole


@dataclass(frozen=True)
class FileHash:
    """A file by its content."""

    size: int
    sha256: str
    part_bytes: int
    parts: tuple[str, ...]

    def to_json(self) -> JsonDict:
        """The words of release.json."""
        return {"size": self.size, "sha256": self.sha256, "part_bytes": self.part_bytes, "parts": list(self.parts)}

    @classmethod
    def from_json(cls, words: JsonObject) -> FileHash:
        """What `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        size, part_bytes = words["size"], words["part_bytes"]
        if not isinstance(size, int) or not isinstance(part_bytes, int) or part_bytes < 1 or size < 0:
            raise ValueError(f"sizes {size!r} and {part_bytes!r}")
        return cls(size, str(words["sha256"]), part_bytes, tuple(map(str, words["parts"])))


def part_bytes(size: int) -> int:
    """How large the parts of a file are: a power of two, so that there are neither too many nor too few."""
    bytes_ = SMALLEST_PART
    while size > bytes_ * MOST_PARTS:
        bytes_ *= 2
    return bytes_


def hash_file(path: Path, progress: Progress, parts_of: int | None = None) -> FileHash:
    """The file's hashes, read once. `parts_of` are the bytes of a part, those that fit its size when None."""
    each = parts_of or part_bytes(path.stat().st_size)
    whole, size, parts = hashlib.sha256(), 0, list[str]()
    with open_regular(path, buffering=0) as file:
        part, left = hashlib.sha256(), each
        while piece := file.read(min(left, CHUNK_BYTES)):
            whole.update(piece)
            part.update(piece)
            size, left = size + len(piece), left - len(piece)
            progress.advance(len(piece))
            if not left:
                parts.append(part.hexdigest()[:PART_DIGITS])
                part, left = hashlib.sha256(), each
    if left < each:
        parts.append(part.hexdigest()[:PART_DIGITS])
    return FileHash(size, whole.hexdigest(), each, tuple(parts))


def hash_text(text: str) -> FileHash:
    """The same of a text that is not a file yet."""
    data = text.encode()
    each = part_bytes(len(data))
    parts = (hashlib.sha256(data[at : at + each]).hexdigest()[:PART_DIGITS] for at in range(0, len(data), each))
    return FileHash(len(data), hashlib.sha256(data).hexdigest(), each, tuple(parts))


class PartMemory:
    """Hashes of parts by the hash of the whole, in a JSON file: what lies there unchanged is not read again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, FileHash] = {}
        try:
            raw: Mapping[str, JsonObject] = json.loads(path.read_text(encoding="utf-8"))
            self._known = {digest: FileHash.from_json(words) for digest, words in raw.items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            self._known = {}

    def recall(self, sha256: str) -> FileHash | None:
        return self._known.get(sha256)

    def learn(self, found: FileHash) -> None:
        self._known[found.sha256] = found

    def save(self, keep: frozenset[str]) -> None:
        """Write what is known of files with these hashes."""
        kept = {digest: found.to_json() for digest, found in self._known.items() if digest in keep}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self._path, json.dumps(kept))
