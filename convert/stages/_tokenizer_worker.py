"""Compares a file's tokenizer on llama.cpp with the checkpoint's own, in a process of its own: llama.cpp may abort.

    python -m convert.child convert.stages._tokenizer_worker REQUEST RESULT

REQUEST is the JSON of a `Request`, RESULT will be that of a `Result`; _tokenizer_proof.py writes one and reads the
other. A difference counts unless it is proven to be one of llama.cpp's known limits: both encode alike, or llama.cpp
encodes as the checkpoint does, once the text is rewritten to be out of the limit's reach.
"""

from __future__ import annotations

import ctypes as C
import json
import os
import re
import sys
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from validate.runtimes import RuntimeFailure
from validate.runtimes._llama_api import LogCallback, library

SHOWN = 5  # differences that are told; the count is of all

NORMALIZATION = "text that the tokenizer normalizes and llama.cpp does not"
BY_NAME = "tokens that llama.cpp takes for an end of text by their name"
STRIPPED = "spaces beside tokens that swallow them"
PREFIX = "the space after a special token inside the text"
CUTS = "llama.cpp's spelling of the pre-tokenizer"
LONG = "words of more than 100 characters"
MARKS = "vowel signs that llama.cpp drops with the accents"
COMPOSED = "decomposed text, which sentencepiece and the tokenizers library normalize each in its way"
TIES = "ways to cut a text that are of one probability"
SIGN = "U+2581, which is how sentencepiece writes a space"
FOLDED = "runs of spaces, and spaces around a text"
SPACES = "spaces that are not ASCII"
NUL = "text with a NUL"


@dataclass(frozen=True)
class Request:
    """What to compare. The settings say which of the limits there can be at all."""

    file: str  # a GGUF file
    kind: str  # of the checkpoint's tokenizer: one of REFERENCES
    path: str  # its file
    texts: Sequence[str]
    pattern: str = ""  # ranks: what cuts a text
    special: Mapping[str, int] = field(default_factory=dict)  # added tokens: text -> id
    merges: str = ""  # merges: merges.txt, beside vocab.json
    cuts: Sequence[str] = ()  # the expressions llama.cpp cuts by, where they are not the tokenizer's
    by_name: Sequence[str] = ()  # ordinary tokens llama.cpp takes for an end of text
    stripped: Sequence[str] = ()  # tokens that swallow the spaces beside them
    space_first_only: bool = False  # the tokenizer puts a space before the text, and none after a special token
    space_prefix: bool = False
    ties: bool = False  # a unigram: the same tokens in another order are as probable
    words: bool = False  # WordPiece
    folds: bool = False  # llama.cpp leaves one space of many, and none around a text
    odd_spaces: bool = False  # llama.cpp cuts otherwise at spaces that are not ASCII
    ends: bool = False  # compare what goes around a text too


@dataclass(frozen=True)
class Result:
    """How it went: `differences` are the first (text, the checkpoint's ids, llama.cpp's ids)."""

    total: int
    wrong: int = 0
    differences: Sequence[tuple[str, Sequence[int], Sequence[int]]] = ()
    limits: Mapping[str, int] = field(default_factory=dict)  # known limit -> strings
    failed: str = ""  # why nothing was compared


class Tokenizer(Protocol):
    """Text to ids, special tokens in it read, nothing put around."""

    def encode(self, text: str) -> list[int]: ...
    def normalize(self, text: str) -> str: ...


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


class LlamaVocabulary:
    """The vocabulary of a GGUF file in llama.cpp; no weights are loaded. Raises RuntimeFailure."""

    def __init__(self, file: Path) -> None:
        self.lib = library()
        self.log: list[str] = []
        self._callback = LogCallback(lambda level, text, data: self.log.append(text.decode(errors="replace")))
        self.lib.llama_log_set(C.cast(self._callback, C.c_void_p), None)
        self.lib.llama_backend_init()
        model = self.lib.llama_model_load_from_file(os.fsencode(file), self._vocabulary_only())
        if not model:
            raise RuntimeFailure("".join(self.log[-4:]).strip() or "llama.cpp says nothing")
        self.vocab = self.lib.llama_model_get_vocab(model)

    def _vocabulary_only(self) -> Any:
        params = self.lib.llama_model_default_params()
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


# --- the checkpoint's own ---------------------------------------------------------------------------------------------


def _cut_at(special: Mapping[str, int], text: str) -> list[str]:
    """The text cut at the special tokens in it, the longest first; they are among the parts, empty parts are not."""
    names = sorted(special, key=lambda name: (-len(name), name))
    parts = re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]
    return [part for part in parts if part]


class OfJson:
    """tokenizer.json, read by the tokenizers library; `cuts` in place of its pre-tokenizer."""

    def __init__(self, request: Request, cuts: Sequence[str] = ()) -> None:
        from tokenizers import AddedToken, Regex, pre_tokenizers
        from tokenizers import Tokenizer as Library

        self.library = Library.from_file(request.path)
        self.library.no_truncation()
        self.library.no_padding()
        _add(self.library, request.special, AddedToken)
        if cuts:
            splits = [pre_tokenizers.Split(Regex(cut), "isolated") for cut in cuts]
            bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            self.library.pre_tokenizer = pre_tokenizers.Sequence([*splits, bytes_])

    def encode(self, text: str, around: bool = False) -> list[int]:
        """The ids; `around`: with what the post-processor adds."""
        return list(self.library.encode(text, add_special_tokens=around).ids)

    def normalize(self, text: str) -> str:
        """As the normalizer makes it, spaces put back."""
        normalizer = self.library.normalizer
        return str(normalizer.normalize_str(text)).replace("▁", " ") if normalizer else text


class OfMerges(OfJson):
    """vocab.json and merges.txt, with the pipeline of the tokenizer's class, given as the expression it cuts by."""

    def __init__(self, request: Request) -> None:
        from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
        from tokenizers import Tokenizer as Library

        self.library = Library(models.BPE.from_file(request.path, request.merges))
        cut = [pre_tokenizers.Split(Regex(request.pattern), "isolated")]
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self.library.pre_tokenizer = pre_tokenizers.Sequence([*cut, byte_level])
        self.library.normalizer = normalizers.Sequence([])
        self.library.decoder = decoders.ByteLevel()
        _add(self.library, request.special, AddedToken)


def _add(library_: Any, special: Mapping[str, int], token: Any) -> None:
    """Those of `special` that the library does not know and would give the same id: tokenizer_config.json's."""
    for text, number in sorted(special.items(), key=lambda item: item[1]):
        if library_.token_to_id(text) is None and library_.get_vocab_size() == number:
            library_.add_tokens([token(text, normalized=False)])


class OfModel:
    """tokenizer.model, read by sentencepiece; added tokens are cut out of the text first."""

    def __init__(self, request: Request) -> None:
        from sentencepiece import SentencePieceProcessor

        self.library = SentencePieceProcessor(model_file=request.path)
        self.special = request.special

    def encode(self, text: str) -> list[int]:
        """The ids; every part between two added tokens is encoded like a text of its own."""
        ids: list[int] = []
        for part in _cut_at(self.special, text):
            ids += [self.special[part]] if part in self.special else self.library.encode(part)
        return ids

    def normalize(self, text: str) -> str:
        """As the model's rules make it, spaces put back."""
        return str(self.library.normalize(text)).replace("▁", " ")


class OfRanks:
    """tekken.json or a tiktoken file: of all neighbours the two whose token has the lowest rank are merged first."""

    def __init__(self, request: Request, cuts: Sequence[str] = ()) -> None:
        import regex

        from convert.gguf.vocabularies.ranks import read_ranks

        ranks = read_ranks(Path(request.path))
        self.rank = {token: number for number, token in enumerate(ranks.tokens)}
        self.first = ranks.first
        self.words = regex.compile((cuts[0] if cuts else ranks.pattern or request.pattern) + r"|\s+")
        self.special = request.special

    def encode(self, text: str) -> list[int]:
        """The ids."""
        ids: list[int] = []
        for part in _cut_at(self.special, text):
            if part in self.special:
                ids.append(self.special[part])
            else:
                ids += [self.first + n for word in self.words.finditer(part) for n in self._word(word[0].encode())]
        return ids

    def _word(self, word: bytes) -> list[int]:
        parts = [word] if word in self.rank else [word[i : i + 1] for i in range(len(word))]
        while len(parts) > 1:
            joined = [a + b for a, b in pairwise(parts)]
            best = min(range(len(joined)), key=lambda i: self.rank.get(joined[i], len(self.rank)))
            if joined[best] not in self.rank:
                break
            parts[best : best + 2] = [joined[best]]
        return [self.rank[part] for part in parts]

    def normalize(self, text: str) -> str:
        """As it is."""
        return text


REFERENCES: Mapping[str, Callable[[Request], Tokenizer]] = {
    "tokenizers": OfJson,
    "merges": OfMerges,
    "sentencepiece": OfModel,
    "ranks": OfRanks,
}


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
        if self.request.space_first_only and self._part_by_part(text) == got:
            return PREFIX
        for limit, rewritten in _rewritten(self.request, text).items():
            if rewritten != text and self.reference.encode(rewritten) == self.candidate.encode(rewritten):
                return limit
        return ""

    def _parts(self, text: str) -> list[str]:
        """The text cut at its special tokens, which are among the parts."""
        return _cut_at(self.request.special, text)

    def _normal(self, text: str) -> str:
        """The text as the tokenizer normalizes it, every part for itself; less the space llama.cpp adds too."""
        prefix = " " if self.reference.normalize("a") == " a" else ""
        parts = self._parts(text)
        special = self.request.special
        return "".join(p if p in special else self.reference.normalize(p).removeprefix(prefix) for p in parts)

    def _part_by_part(self, text: str) -> list[int]:
        """The ids when every part between two special tokens is encoded like a text of its own."""
        special = self.request.special
        parts = ([special[p]] if p in special else self.reference.encode(p) for p in self._parts(text))
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
    return [(f"{text} (with what goes around it)", wanted, got)] if sayable and wanted != got else []


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
    variants: Mapping[str, Callable[[Request, Sequence[str]], Tokenizer]] = {"tokenizers": OfJson, "ranks": OfRanks}
    variant = variants[request.kind](request, request.cuts) if request.cuts and request.kind in variants else None
    return Comparison(request, reference, candidate, variant).result()


def main(request: Path, result: Path) -> None:
    """Read one, write the other, and leave without tidying up: the process is all there is to free."""
    asked = Request(**json.loads(request.read_text(encoding="utf-8")))
    result.write_text(json.dumps(asdict(answer(asked))), encoding="utf-8")
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
