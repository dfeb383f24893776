"""Compares a file's tokenizer on llama.cpp with the checkpoint's own, in a process of its own: llama.cpp may abort.

    convert.child.run(["convert.formats.gguf.tokenizer_worker", "REQUEST.json"])

The request is a `Request`, the process's result is a `Result`; tokenizer_proof.py writes one and reads the other.
A difference counts unless it is proven to be one of llama.cpp's known limits: both encode alike, or llama.cpp encodes
as the checkpoint does, once the text is rewritten to be out of the limit's reach.
"""

from __future__ import annotations

import ctypes as C
import json
import os
import re
import resource
import sys
import threading
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from convert import messages
from convert.formats.gguf.tokenizer_references import REFERENCES, VARIANTS, OfJson, Request, Tokenizer, cut_at
from validate.runtimes import RuntimeFailure
from validate.runtimes._llama_api import LogCallback, library

SECONDS = 180  # of a processor
MEMORY_BYTES, MEMORY_TIMES = 1 << 30, 40
SHOWN = 5  # differences that are shown; the count is of all

NORMALIZATION = "text that the tokenizer normalizes and llama.cpp does not"
BY_NAME = "tokens that llama.cpp takes for an end of text by their name"
STRIPPED = "spaces beside tokens that strip them (lstrip, rstrip)"
PREFIX = "the space before a text, and after a special token in it"
CUTS = "llama.cpp's spelling of the pre-tokenizer"
LONG = "words of more than 100 characters"
MARKS = "vowel signs that llama.cpp drops with the accents"
COMPOSED = "decomposed text, which sentencepiece and the tokenizers library normalize each in its way"
TIES = "ways to split a text that are equally probable"
SIGN = "U+2581, which is how sentencepiece writes a space"
FOLDED = "runs of spaces, and spaces around a text"
SPACES = "spaces that are not ASCII"
NUL = "text with a NUL"


@dataclass(frozen=True)
class Result:
    """How it went: `differences` are the first (text, the checkpoint's ids, llama.cpp's ids)."""

    total: int
    wrong: int = 0
    differences: Sequence[tuple[str, Sequence[int], Sequence[int]]] = ()
    limits: Mapping[str, int] = field(default_factory=dict)  # known limit -> strings
    failed: str = ""  # why nothing was compared


# --- llama.cpp --------------------------------------------------------------------------------------------------------


class _ModelParams(C.Structure):
    """The beginning of llama_model_params of build 11549, of which only vocab_only is set."""

    _fields_ = (
        *((name, C.c_void_p) for name in ("devices", "overrides")),
        *((name, C.c_int32) for name in ("n_gpu_layers", "split_mode", "load_mode", "lazy_mode", "main_gpu")),
        *((name, C.c_void_p) for name in ("tensor_split", "callback", "user_data", "kv_overrides")),
        *((name, C.c_bool) for name in ("vocab_only", "check_tensors", "use_extra_bufts", "no_host", "no_alloc")),
    )


_DEFAULTS = {
    "devices": None, "overrides": None, "split_mode": 1, "main_gpu": 0, "tensor_split": None, "kv_overrides": None,
    "vocab_only": False, "check_tensors": False, "use_extra_bufts": True, "no_host": False, "no_alloc": False,
}  # fmt: skip
"""llama_model_default_params of that build; another layout shows by another value."""


_CALLBACKS: list[object] = []
"""What llama.cpp calls, for good: also when the vocabulary is gone that it was set for."""


class LlamaVocabulary:
    """The vocabulary of a GGUF file in llama.cpp; no weights are loaded. Raises RuntimeFailure."""

    def __init__(self, file: Path) -> None:
        self.lib = library()
        self.log: list[str] = []
        callback = LogCallback(lambda level, text, data: self.log.append(text.decode(errors="replace")))
        _CALLBACKS.append(callback)
        self.lib.llama_log_set(C.cast(callback, C.c_void_p), None)
        self.lib.llama_backend_init()
        model = self.lib.llama_model_load_from_file(os.fsencode(file), self._vocabulary_only())
        if not model:
            raise RuntimeFailure("".join(self.log[-4:]).strip() or "llama.cpp says nothing")
        self.vocab = self.lib.llama_model_get_vocab(model)

    def _vocabulary_only(self) -> C.Structure:
        params: C.Structure = self.lib.llama_model_default_params()
        seen = _ModelParams.from_buffer(params)
        if any(getattr(seen, name) != value for name, value in _DEFAULTS.items()):
            raise RuntimeFailure("this build of llama.cpp lays llama_model_params out in another way")
        seen.vocab_only = True
        return params

    def encode(self, text: str, around: bool = False, special: bool = True) -> list[int]:
        """The ids; `around`: with what goes before and after a text; `special`: special tokens in the text read."""
        raw = text.encode()
        room = 2 * len(raw) + 16
        ids = (C.c_int32 * room)()
        count = self.lib.llama_tokenize(self.vocab, raw, len(raw), ids, room, around, special)
        return list(ids[: max(count, 0)])


# --- the comparison ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Both tokenizers; `variant` is the checkpoint's with llama.cpp's spelling of its pre-tokenizer."""

    request: Request
    reference: Tokenizer
    candidate: LlamaVocabulary
    variant: Tokenizer | None = None

    def result(self) -> Result:
        """Every text encoded by both."""
        limits: Counter[str] = Counter()
        wrong = []
        for text in self.request.texts:
            wanted, got = self.reference.encode(text), self.candidate.encode(text)
            if wanted == got:
                continue
            limit = self._limit(text, got)
            if limit:
                limits[limit] += 1
            else:
                wrong.append((text, wanted, got))
        if self.request.ends and isinstance(self.reference, OfJson):
            wrong += _around(self.reference, self.candidate)
        return Result(len(self.request.texts), len(wrong), wrong[:SHOWN], dict(limits))

    def _limit(self, text: str, got: list[int]) -> str:
        """The known limit that explains the difference on `text`, proven; empty when none does."""
        if self.request.ties and sorted(got) == sorted(self.reference.encode(text)):
            return TIES
        normal = self._normal(text)
        if normal != text and self.candidate.encode(normal) == self.reference.encode(text):
            return NORMALIZATION
        if self.variant is not None and self.variant.encode(text) == got:
            return CUTS
        if self.request.metaspace and self.request.space_prefix and self._part_by_part(text) == got:
            return PREFIX
        for limit, rewritten in _rewritten(self.request, text).items():
            if rewritten != text and self.reference.encode(rewritten) == self.candidate.encode(rewritten):
                return limit
        return ""

    def _parts(self, text: str) -> list[str]:
        """The text cut at its special tokens, which are among the parts."""
        return cut_at(self.request.special, text)

    def _normal(self, text: str) -> str:
        """The text as the tokenizer normalizes it, every part for itself; less the space llama.cpp adds too."""
        prefix = " " if self.reference.normalize("a") == " a" else ""
        parts = self._parts(text)
        special = self.request.special
        return "".join(p if p in special else self.reference.normalize(p).removeprefix(prefix) for p in parts)

    def _part_by_part(self, text: str) -> list[int]:
        """The ids with llama.cpp's space before every part: one more than Metaspace puts where one is already."""
        special = self.request.special
        parts = (
            [special[p]] if p in special else self.reference.encode(f" {p}" if p[0] in " ▁" else p)
            for p in self._parts(text)
        )
        return [number for part in parts for number in part]


def _rewritten(request: Request, text: str) -> dict[str, str]:
    """Limit -> the text out of its reach."""
    unnamed, beside = text, text
    for name in request.by_name:
        unnamed = unnamed.replace(name, "")
    for name in request.stripped:
        beside = re.sub(rf"\s*({re.escape(name)})\s*", r"\1", beside)
    short = re.sub(r"(\w{100})\w+", r"\1", text) if request.words else text
    plain = re.sub(r"[^\S\x00-\x7f]", " ", text) if request.odd_spaces else text
    return {
        BY_NAME: unnamed,
        STRIPPED: beside,
        LONG: short,
        MARKS: _without_marks(text) if request.words else text,
        COMPOSED: unicodedata.normalize("NFC", text) if request.folds else text,
        FOLDED: re.sub(" +", " ", text).strip(" ") if request.folds else text,
        SPACES: plain,
        SIGN: text.replace("▁", "_") if request.space_prefix else text,
        NUL: text.partition("\0")[0],
    }


def _without_marks(text: str) -> str:
    """The text without any combining mark; BERT takes away those that take no space (Mn), llama.cpp all."""
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.category(c).startswith("M"))


def _around(reference: OfJson, candidate: LlamaVocabulary) -> list[tuple[str, list[int], list[int]]]:
    """The difference in what goes before and after a text; none where the tokenizer adds more than GGUF can say."""
    text = "a b"
    inside, wanted, got = reference.encode(text), reference.encode(text, around=True), candidate.encode(text, True)
    starts = [i for i in range(len(wanted)) if wanted[i : i + len(inside)] == inside]
    sayable = any(i <= 1 and len(wanted) - i - len(inside) <= 1 for i in starts)
    return [(f"{text} (with the special tokens before and after it)", wanted, got)] if sayable and wanted != got else []


def answer(request: Request) -> Result:
    """The comparison, the two tokenizers loaded side by side."""
    found: list[Tokenizer | BaseException] = []

    def load() -> None:
        try:
            found.append(REFERENCES[request.kind](request))
        except BaseException as error:  # a panic of the library's is no Exception
            found.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        candidate = LlamaVocabulary(Path(request.file))
    except RuntimeFailure as error:
        return Result(0, failed=f"llama.cpp does not load the vocabulary: {error}")
    finally:
        thread.join()
    reference = found[0]
    if isinstance(reference, BaseException):
        return Result(0, failed=f"the checkpoint's own tokenizer does not load: {str(reference)[:300]}")
    variant = VARIANTS[request.kind](request, request.cuts) if request.cuts and request.kind in VARIANTS else None
    return Comparison(request, reference, candidate, variant).result()


def confine(file: Path) -> None:
    """Take only so much for the tokenizer in `file`, whose expressions and normalizers a stranger wrote.

    A good one takes seconds, and some twenty times its file.
    """
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    most = MEMORY_BYTES + MEMORY_TIMES * file.stat().st_size
    resource.setrlimit(resource.RLIMIT_DATA, (most, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def main(request: Path) -> None:
    """Report the result, and leave without tidying up: the process is all there is to free."""
    asked = Request(**json.loads(request.read_text(encoding="utf-8")))
    confine(Path(asked.path))
    messages.parent().result(asdict(answer(asked)))
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
