"""A checkpoint's tokenizer read from its own file by the library the file is made for, and by nothing in between.

transformers 5 builds some classes anew (LlamaTokenizer, LlamaTokenizerFast): of tokenizer.json it takes vocabulary and
merges, and puts a pipeline of its own around them, with no space before a text that begins with one and none after a
special token. tokenizers and transformers 4 run the file's pipeline, sentencepiece does as that says; llama.cpp too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

LLAMA_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast")


class FileTokenizer(Protocol):
    """Text to ids, special tokens in it read, those around it added."""

    def encode(self, text: str) -> list[int]: ...


def file_tokenizer(folder: Path, added: Mapping[str, int], lead: Sequence[int]) -> FileTokenizer | None:
    """The tokenizer of `folder`; None where it has no file of a kind that is read here, or its library fails on it.

    `added`: text -> id of added tokens, `lead`: what goes before a text; both for tokenizer.model, which says neither.
    """
    config = _config(folder)
    try:
        if (folder / "tokenizer.json").is_file():
            return _OfJson(folder / "tokenizer.json", _without_prefix(config))
        if (folder / "tokenizer.model").is_file():
            return _OfModel((folder / "tokenizer.model").read_bytes(), _without_prefix(config), added, lead)
    except Exception:  # the libraries raise what they like for a stranger's file: then transformers' word is all
        return None
    return None


def _config(folder: Path) -> Mapping[str, object]:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8-sig")) if path.is_file() else {}
    return config if isinstance(config, dict) else {}


def _without_prefix(config: Mapping[str, object]) -> bool:
    """`add_prefix_space: false` takes the space away that the file itself asks for: transformers 4 and 5 agree."""
    return config.get("tokenizer_class") in LLAMA_CLASSES and config.get("add_prefix_space") is False


class _OfJson:
    def __init__(self, path: Path, without_prefix: bool) -> None:
        from tokenizers import Tokenizer, normalizers, pre_tokenizers

        self._library = Tokenizer.from_file(str(path))
        self._library.no_truncation()
        self._library.no_padding()
        if without_prefix:
            self._library.normalizer = normalizers.Replace(" ", "▁")
            self._library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)

    def encode(self, text: str) -> list[int]:
        return list(self._library.encode(text).ids)


class _OfModel:
    def __init__(self, model: bytes, without_prefix: bool, added: Mapping[str, int], lead: Sequence[int]) -> None:
        from sentencepiece import SentencePieceProcessor

        # NormalizerSpec once more, with add_dummy_prefix false: of a message that comes twice, the later words count
        self._library = SentencePieceProcessor(model_proto=model + (b"\x1a\x02\x18\x00" if without_prefix else b""))
        self._added, self._lead = added, list(lead)
        names = sorted(added, key=len, reverse=True)
        self._cut = re.compile(f"({'|'.join(map(re.escape, names))})") if names else None

    def encode(self, text: str) -> list[int]:
        parts = self._cut.split(text) if self._cut else [text]
        ids = [[self._added[part]] if part in self._added else self._library.encode(part) for part in parts if part]
        return self._lead + [number for part in ids for number in part]
