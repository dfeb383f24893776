"""The tokenizer of a checkpoint as a GGUF file has it, read once and kept by the content of its files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from convert.bundle import Role
from convert.collection import without_collection
from convert.formats.gguf.tokenizer_references import Request
from convert.formats.gguf.tokenizer_request import request
from convert.formats.gguf.vocabulary import tokenizer_metadata
from convert.gguf_field import Field
from convert.source.companions import ROLES, Companions

KEPT = 4  # tokenizers at a time; one of 150,000 tokens takes 50 MB


@dataclass(frozen=True)
class GGUFTokenizer:
    """The `tokenizer.*` fields, notes on what llama.cpp does otherwise, and what its proof will ask."""

    fields: tuple[Field, ...] = ()
    notes: tuple[str, ...] = ()
    asked: Request | None = None


_known: dict[tuple[object, ...], GGUFTokenizer] = {}


def read_tokenizer(companions: Companions, vocab_size: int, pre_tokenizer: str | None) -> GGUFTokenizer:
    """The tokenizer of `companions`, parsed where no tokenizer of the same files, rows and name was before.

    The same object each time: its fields are encoded once too. Raises InputError as `tokenizer_metadata` does.
    """
    key = (_content(companions.files), vocab_size, pre_tokenizer)
    found = _known.pop(key, None) or _read(companions, vocab_size, pre_tokenizer)
    if _content(companions.files) == key[0]:  # no file was changed while it was read
        _known[key] = found
        for oldest in list(_known)[:-KEPT]:
            _known.pop(oldest, None)
    return found


def _read(companions: Companions, vocab_size: int, pre_tokenizer: str | None) -> GGUFTokenizer:
    with without_collection():
        metadata = tokenizer_metadata(companions, vocab_size, pre_tokenizer=pre_tokenizer)
        return GGUFTokenizer(metadata.fields, metadata.notes, request(metadata.fields, companions))


def _content(files: Mapping[str, Path]) -> tuple[tuple[str, str, str], ...]:
    """Place and hash of every file that says something of the tokenizer: all companions but the card."""
    return tuple(
        (name, str(path), hashlib.sha256(path.read_bytes()).hexdigest())
        for name, path in sorted(files.items())
        if ROLES.get(name) is not Role.CARD
    )
