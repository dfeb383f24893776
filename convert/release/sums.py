"""SHA256SUMS, as `sha256sum -c` reads it, and release.json, which knows the parts of every file.

SHA256SUMS names every file of a repository but itself; release.json all but those two. What one of them says of a file
the other says too, and provenance.json a third time: so a flipped bit in a list is told from one in a file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from convert.errors import InputError
from convert.files import read_regular
from convert.json_types import JsonDict, JsonObject
from convert.release.hashing import FileHash
from convert.source.untrusted import shown

SUMS, RELEASE = "SHA256SUMS", "release.json"
PROVENANCE, BILL, SIGNATURE = "provenance.json", "sbom.cdx.json", "model.sig"
SCHEMA_VERSION = 1
LINE = re.compile(r"([0-9a-f]{64})  ([^\n\\]+)\n")
SELF = "self"  # release.json's hash of itself, with nothing in the place of that hash


def write_sums(digests: Mapping[str, str]) -> str:
    """SHA256SUMS of path -> sha256."""
    return "".join(f"{digest}  {path}\n" for path, digest in sorted(digests.items()))


def read_sums(text: str) -> dict[str, str]:
    """Path -> sha256. Raises ValueError, with the line, for a text that `write_sums` would not write."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        match = LINE.fullmatch(line)
        if match is None or match[2] in found or (found and match[2] < max(found)) or unsafe(match[2]):
            raise ValueError(f"line {number} is {shown(line)}, wanted a hash, two spaces and a path, in order")
        found[match[2]] = match[1]
    return found


def without_signature(text: str) -> str:
    """SHA256SUMS as it was before it named a signature, which is another each time."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.endswith(f"  {SIGNATURE}\n"))


def unsafe(path: str) -> bool:
    """Whether a path of a list leads elsewhere than into the repository."""
    parts = path.split("/")
    return path.startswith("/") or any(part in ("", ".", "..") for part in parts) or "\0" in path or "\\" in path


def write_release(words: JsonDict, files: Mapping[str, FileHash]) -> str:
    """release.json: `words` of the release, and every file with the hashes of its parts."""
    entries = [{"path": path, **found.to_json()} for path, found in sorted(files.items())]
    content = {"schema_version": SCHEMA_VERSION, SELF: "", **words, "files": entries}
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    return text.replace(_self_line(""), _self_line(hashlib.sha256(text.encode()).hexdigest()), 1)


def _self_line(digest: str) -> str:
    return f' "{SELF}": "{digest}",\n'


def is_whole(text: str, words: JsonObject) -> bool:
    """Whether release.json is what was written, by the hash that it has of itself."""
    digest = str(words.get(SELF))
    empty = text.replace(_self_line(digest), _self_line(""), 1)
    return empty != text and hashlib.sha256(empty.encode()).hexdigest() == digest


def read_release(path: Path) -> tuple[JsonObject, dict[str, FileHash]]:
    """What release.json says of the release, and of each file. Raises InputError for what is none."""
    try:
        raw = read_regular(path)
        words = json.loads(raw)
        if words["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version {words['schema_version']!r}, wanted {SCHEMA_VERSION}")
        files = {str(entry["path"]): FileHash.from_json(entry) for entry in words["files"]}
        if bad := next(filter(unsafe, files), None):
            raise ValueError(f"the path {shown(bad)}")
    except FileNotFoundError:
        raise InputError(str(path), "is not there", "a folder that `convert release` made") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        got = f"cannot be read ({type(error).__name__}: {shown(str(error), 200)[1:-1]})"
        raise InputError(str(path), got, "a release.json of convert") from None
    return words, files
