"""Proofs of tokenizers that found no difference, kept in the user's cache by all that decides them.

A name is the hash of both vocabularies by content, the texts, the libraries that encode, and our code that compares: a
file under this name says what a comparison would find now. One that is damaged, or holds another name, says nothing.
What failed is not kept: it is compared again, and reported again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from convert.files import cache_folder, replace_text
from convert.formats.gguf.tokenizer_references import LIBRARIES, Request
from convert.formats.gguf.tokenizer_worker import Result
from convert.gguf_field import Field
from convert.keys import version
from validate.runtimes import _llama_api

FOLDER = "tokenizers"  # of the cache
MOST = 500  # verdicts that are kept, of some hundred bytes each
BEFORE_BYTES = 1 << 20  # in a file, before its tokenizer: magic, numbers, the other metadata


def key(asked: Request, fields: Sequence[Field]) -> str:
    """The hash of everything that decides the outcome, wherever it lies.

    Of the metadata `fields`, llama.cpp reads no more than the architecture before it has the vocabulary.
    """
    here = {**asdict(asked), "file": "", "path": "", "merges": ""}
    digest = hashlib.sha256(json.dumps([here, _libraries(asked.kind), _code()]).encode())
    for field in fields:
        if field.key.startswith("tokenizer.") or field.key == "general.architecture":
            digest.update(field.encoded)
    for path in filter(None, (asked.path, asked.merges)):
        digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return digest.hexdigest()


def recall(key: str, asked: Request, fields: Sequence[Field]) -> Result | None:
    """The verdict; None where it is not known, what is kept is not one, or the file does not hold these fields."""
    texts = len(asked.texts)
    try:
        if not _holds(Path(asked.file), fields):
            return None
        kept = json.loads((cache_folder() / FOLDER / f"{key}.json").read_text(encoding="utf-8"))
        limits = {str(limit): int(count) for limit, count in kept["limits"].items()}
        good = kept["key"] == key and kept["total"] == texts
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError):  # RuntimeError: no home folder
        return None
    return Result(texts, limits=limits) if good else None


def keep(key: str, result: Result) -> None:
    """Keep a verdict without a difference; where the cache cannot be written, forget it."""
    with contextlib.suppress(OSError, RuntimeError):
        place = cache_folder() / FOLDER
        if (place / f"{key}.json").exists():
            return
        place.mkdir(parents=True, exist_ok=True)
        replace_text(place / f"{key}.json", json.dumps({"key": key, "total": result.total, "limits": result.limits}))
        oldest = sorted(place.glob("*.json"), key=lambda path: path.stat().st_mtime)[:-MOST]
        for path in oldest:
            path.unlink(missing_ok=True)


def _holds(file: Path, fields: Sequence[Field]) -> bool:
    """Whether the file has the tokenizer's fields byte for byte, which is what the verdict is about."""
    encoded = b"".join(field.encoded for field in fields if field.key.startswith("tokenizer."))
    with open(file, "rb") as opened:
        return encoded in opened.read(len(encoded) + BEFORE_BYTES)


def _libraries(kind: str) -> dict[str, object]:
    """What encodes: llama.cpp's library and the checkpoint's own, by version; of a library also the file itself."""
    library = _llama_api.library_path()
    status = library.stat() if library is not None else None
    return {
        "llama.cpp": [status.st_size, status.st_mtime_ns] if status is not None else [],
        "unicode": unicodedata.unidata_version,
        "python": sys.version,
        **{name: version(name) for name in ("xllamacpp", *LIBRARIES[kind])},
    }


@functools.cache
def _code() -> str:
    """A digest of our modules that compare, and of those they are made of."""
    files = [*Path(__file__).parent.rglob("*.py"), Path(_llama_api.__file__)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()
