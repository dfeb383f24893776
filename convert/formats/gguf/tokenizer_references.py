"""The checkpoint's own tokenizer, whichever file it is in, as the original library runs it.

Used in the process of tokenizer_worker.py: what the libraries do with a stranger's file is theirs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Library


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
    metaspace: bool = False  # the tokenizer puts no space before a space, and after a special token none or one
    space_prefix: bool = False
    no_prefix: bool = False  # the config takes away the space before a text that the file asks for
    ties: bool = False  # a unigram: the same tokens in another order are as probable
    words: bool = False  # WordPiece
    folds: bool = False  # llama.cpp leaves one space of many, and none around a text
    odd_spaces: bool = False  # llama.cpp splits differently at spaces that are not ASCII
    ends: bool = False  # compare what goes around a text too


LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "tokenizers": ("tokenizers",),
    "merges": ("tokenizers",),
    "sentencepiece": ("sentencepiece",),
    "ranks": ("regex",),
    "trie": (),
}
"""What the checkpoint's own tokenizer is run by, by its kind: modules, and the packages they come in."""


class Tokenizer(Protocol):
    """Text to ids, special tokens in it read, nothing put around."""

    def encode(self, text: str) -> list[int]: ...
    def normalize(self, text: str) -> str: ...


def cut_at(special: Mapping[str, int], text: str) -> list[str]:
    """The text cut at the special tokens in it, the longest first; they are among the parts, empty parts are not."""
    names = sorted(special, key=lambda name: (-len(name), name))
    parts = re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]
    return [part for part in parts if part]


class OfJson:
    """tokenizer.json, read by the tokenizers library; `cuts` in place of its pre-tokenizer."""

    def __init__(self, request: Request, cuts: Sequence[str] = ()) -> None:
        from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
        from tokenizers import Tokenizer as Library

        self.library = Library.from_file(request.path)
        self.library.no_truncation()
        self.library.no_padding()
        _add(self.library, request.special, AddedToken)
        if request.no_prefix:
            self.library.normalizer = normalizers.Replace(" ", "▁")
            self.library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
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


def _add(library_: Library, special: Mapping[str, int], token: type[AddedToken]) -> None:
    """Those of `special` that the library does not know and would give the same id: tokenizer_config.json's."""
    for text, number in sorted(special.items(), key=lambda item: item[1]):
        if library_.token_to_id(text) is None and library_.get_vocab_size() == number:
            library_.add_tokens([token(text, normalized=False)])


class OfModel:
    """tokenizer.model, read by sentencepiece; added tokens are cut out of the text first."""

    def __init__(self, request: Request) -> None:
        from sentencepiece import SentencePieceProcessor

        model = Path(request.path).read_bytes()
        # NormalizerSpec once more, with add_dummy_prefix false: of a message that comes twice, the later words count
        self.library = SentencePieceProcessor(model_proto=model + (b"\x1a\x02\x18\x00" if request.no_prefix else b""))
        self.special = request.special

    def encode(self, text: str) -> list[int]:
        """The ids; every part between two added tokens is encoded like a text of its own."""
        ids: list[int] = []
        for part in cut_at(self.special, text):
            ids += [self.special[part]] if part in self.special else self.library.encode(part)
        return ids

    def normalize(self, text: str) -> str:
        """As the model's rules make it, spaces put back."""
        return str(self.library.normalize(text)).replace("▁", " ")


class OfRanks:
    """tekken.json or a tiktoken file: of all neighbours the two whose token has the lowest rank are merged first."""

    def __init__(self, request: Request, cuts: Sequence[str] = ()) -> None:
        import regex

        from convert.formats.gguf.vocabularies.ranks import read_ranks

        ranks = read_ranks(Path(request.path))
        self.rank = {token: number for number, token in enumerate(ranks.tokens)}
        self.first = ranks.first
        self.words = regex.compile((cuts[0] if cuts else ranks.pattern or request.pattern) + r"|\s+")
        self.special = request.special

    def encode(self, text: str) -> list[int]:
        """The ids."""
        ids: list[int] = []
        for part in cut_at(self.special, text):
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


class OfTrie:
    """RWKV's World: at every place the longest token there is."""

    def __init__(self, request: Request) -> None:
        from convert.formats.gguf.vocabularies.trie import read_trie

        self.ids = {token: number for number, token in read_trie(Path(request.path)).items()}
        self.longest = max(map(len, self.ids))
        self.special = request.special

    def encode(self, text: str) -> list[int]:
        """The ids."""
        return [n for part in cut_at(self.special, text) for n in self._part(part)]

    def _part(self, part: str) -> list[int]:
        if part in self.special:
            return [self.special[part]]
        raw, place, ids = part.encode(), 0, list[int]()
        while place < len(raw):
            ends = range(min(self.longest, len(raw) - place), 0, -1)
            size = next(size for size in ends if raw[place : place + size] in self.ids)
            ids.append(self.ids[raw[place : place + size]])
            place += size
        return ids

    def normalize(self, text: str) -> str:
        """As it is."""
        return text


REFERENCES: Mapping[str, Callable[[Request], Tokenizer]] = {
    "tokenizers": OfJson,
    "merges": OfMerges,
    "sentencepiece": OfModel,
    "ranks": OfRanks,
    "trie": OfTrie,
}

VARIANTS: Mapping[str, Callable[[Request, Sequence[str]], Tokenizer]] = {"tokenizers": OfJson, "ranks": OfRanks}
"""Those that can cut a text by other expressions than their own."""
