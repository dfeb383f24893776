"""Byte-level BPE from files of ranked tokens: Mistral's tekken.json and tiktoken's `<base64> <rank>` lines.

Such a file has no merges. tiktoken merges, of all neighbours, the two that make the token of the lowest rank; so every
way to cut a token into two tokens is a merge, and merges go in the order of what they make.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from convert.errors import InputError
from convert.formats.gguf import pretokenizers
from convert.formats.gguf.sentencepiece import CONTROL, Piece
from convert.formats.gguf.vocabularies._common import Vocabulary, added_type, padded
from convert.formats.gguf.vocabularies.byte_level import pre_tokenizer_of_class
from convert.json_types import JsonDict
from convert.source.companions import TOKENIZER_BYTES, Companions, read_json
from convert.source.untrusted import read_bytes

MAX_TOKENS = 2_000_000
MAX_TOKEN_BYTES = 4096  # the longest in use are some hundred spaces
TEKKEN_UNKNOWN, TEKKEN_BOS, TEKKEN_EOS = "<unk>", "<s>", "</s>"

QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)))
SPECIAL_OF_CLASS: Mapping[str, tuple[str, ...]] = {"QWenTokenizer": QWEN_SPECIAL}
"""Special tokens that are in the class's code alone, from the first id after the ranks (tokenization_qwen.py)."""


@dataclass(frozen=True)
class Ranks:
    """A file of ranked tokens: `tokens[rank]` is the token's bytes, its id `rank + first`."""

    tokens: tuple[bytes, ...]
    first: int = 0
    special: Mapping[int, Piece] = field(default_factory=dict)  # by id
    pattern: str | None = None  # the regular expression that cuts a text, where the file says it


def spelled(token: bytes) -> str:
    """The token in the 256 characters that stand for bytes."""
    return token.decode("latin-1").translate(_SPELLING)


def _spelling() -> dict[int, str]:
    """Byte -> character: printable Latin-1 is itself, the others are U+0100 and on (OpenAI's GPT-2, encoder.py)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {**{byte: chr(byte) for byte in plain}, **{byte: chr(256 + i) for i, byte in enumerate(others)}}


_SPELLING = _spelling()


def merges_of(tokens: tuple[bytes, ...]) -> tuple[str, ...]:
    """`left right` of every cut of every token into two tokens, in the order in which tiktoken would merge them."""
    rank = {token: number for number, token in enumerate(tokens)}
    text = {token: spelled(token) for token in tokens}
    merges = []
    for token in tokens:
        cuts = ((token[:i], token[i:]) for i in range(1, len(token)))
        pairs = sorted((rank[a], rank[b], text[a], text[b]) for a, b in cuts if a in rank and b in rank)
        merges += [f"{left} {right}" for _, _, left, right in pairs]
    return tuple(merges)


def ranked(companions: Companions, vocab_size: int, override: str | None) -> Vocabulary:
    """The vocabulary of tekken.json or a tiktoken file. Raises InputError."""
    path = ranks_file(companions)
    assert path is not None
    ranks = read_ranks(path)
    if ranks.pattern is None or override is not None:
        pre = pre_tokenizer_of_class(companions, override)
    else:
        pre = pretokenizers.recognize(_pipeline(ranks.pattern), None, str(path))
    pieces = {ranks.first + number: Piece(spelled(token)) for number, token in enumerate(ranks.tokens)}
    pieces |= ranks.special
    name = str(companions.tokenizer_config.get("tokenizer_class", ""))
    for number, text in enumerate(SPECIAL_OF_CLASS.get(name, ()), len(ranks.tokens)):
        pieces[number] = Piece(text, type=CONTROL)
    for number, token in companions.added_tokens.items():
        pieces[number] = Piece(token["content"], type=added_type(token))
    is_tekken = path.name == "tekken.json"
    return Vocabulary(
        "gpt2",
        pre.name,
        padded(pieces, vocab_size, str(path)),
        merges_of(ranks.tokens),
        add_bos=True if is_tekken else None,  # mistral-common puts <s> before every conversation
        notes=pre.notes,
    )


def _pipeline(pattern: str) -> JsonDict:
    """The tokenizer.json that cuts by `pattern`; tiktoken looks a word up whole before it merges."""
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"pre_tokenizer": split, "model": {"ignore_merges": True, "vocab": {}, "merges": []}}


def ranks_file(companions: Companions) -> Path | None:
    """tekken.json or the tiktoken file of a model, where it has one."""
    names = [
        name for name in companions.files if name == "tekken.json" or name.endswith((".tiktoken", "tiktoken.model"))
    ]
    return companions.files[sorted(names, key=lambda name: (name != "tekken.json", name))[0]] if names else None


def read_ranks(path: Path) -> Ranks:
    """The tokens of tekken.json or of a tiktoken file. Raises InputError for ranks with gaps, and for other files."""
    return _tekken(path) if path.name == "tekken.json" else _tiktoken(path)


def _tiktoken(path: Path) -> Ranks:
    found: dict[int, bytes] = {}
    for number, line in enumerate(read_bytes(path, TOKENIZER_BYTES).splitlines(), 1):
        token, _, rank = line.partition(b" ")
        if line.strip():
            found[_rank(rank, f"{path}:{number}")] = _token(token, f"{path}:{number}")
    return Ranks(_dense(found, path))


def _tekken(path: Path) -> Ranks:
    data = read_json(path, TOKENIZER_BYTES)
    config, entries = data.get("config"), data.get("vocab")
    if not isinstance(config, Mapping) or not isinstance(entries, list) or len(entries) > MAX_TOKENS:
        raise InputError(str(path), "no config with a vocab", "Mistral's tekken.json")
    size, first = (_count(config.get(key), key, path) for key in ("default_vocab_size", "default_num_special_tokens"))
    pattern = config.get("pattern")
    if not isinstance(pattern, str) or first > size:
        raise InputError(str(path), f"pattern {str(pattern)[:40]!r}, {first} special of {size}", "a regular expression")
    found = {}
    for entry in entries:
        where = f"{path}: vocab entry {json.dumps(entry, ensure_ascii=False)[:60]}"
        values = entry if isinstance(entry, Mapping) else {}
        rank = _count(values.get("rank"), "rank", path)
        if rank < size - first:  # the file has more than the model uses
            found[rank] = _token(str(values.get("token_bytes", "")).encode(), where)
    return Ranks(_dense(found, path), first, _tekken_special(data.get("special_tokens"), first, path), pattern)


def _tekken_special(listed: object, count: int, path: Path) -> dict[int, Piece]:
    """Id -> special token, of those the file lists; the others up to `count` are called <SPECIAL_i>.

    Files before version 7 list none: they had unk, s, /s, and the markup of instructions (mistral-common, tekken.py).
    """
    names = [TEKKEN_UNKNOWN, TEKKEN_BOS, TEKKEN_EOS, "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"]
    names += ["[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]"]
    names += ["[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"]
    special = {number: Piece(f"<SPECIAL_{number}>", type=CONTROL) for number in range(count)}
    if not isinstance(listed, list):
        return special | {n: Piece(name, type=CONTROL) for n, name in enumerate(names[:count])}
    for entry in listed:
        values = entry if isinstance(entry, Mapping) else {}
        rank, text = _count(values.get("rank"), "rank of a special token", path), values.get("token_str")
        if rank >= count or not isinstance(text, str) or not text:
            raise InputError(str(path), f"special token {str(entry)[:60]!r}", f"a text, and a rank below {count}")
        special[rank] = Piece(text, type=CONTROL)
    return special


def _count(value: object, key: str, path: Path) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_TOKENS:
        raise InputError(str(path), f"{key} is {str(value)[:40]!r}", f"a number up to {MAX_TOKENS}")
    return value


def _rank(text: bytes, where: str) -> int:
    if not text.isdigit() or len(text) > 7 or int(text) >= MAX_TOKENS:
        raise InputError(where, f"the rank is {text[:40]!r}", f"a number below {MAX_TOKENS}")
    return int(text)


def _token(text: bytes, where: str) -> bytes:
    try:
        token = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise InputError(where, f"a token is not base64 ({error})", "tokens in base64") from error
    if not 0 < len(token) <= MAX_TOKEN_BYTES:
        raise InputError(where, f"a token of {len(token)} bytes", f"1 to {MAX_TOKEN_BYTES}")
    return token


def _dense(found: Mapping[int, bytes], path: Path) -> tuple[bytes, ...]:
    """The tokens by rank, all 256 bytes among them, none twice."""
    tokens = tuple(found[rank] for rank in sorted(found))
    if not tokens or max(found) != len(tokens) - 1 or len(set(tokens)) != len(tokens):
        raise InputError(
            str(path), f"{len(tokens)} ranks up to {max(found, default=-1)}", "every rank, and a token once"
        )
    if len(_bytes(tokens)) != 256:
        raise InputError(str(path), f"{len(_bytes(tokens))} tokens of one byte", "256, one for each")
    return tokens


def _bytes(tokens: Iterable[bytes]) -> set[bytes]:
    return {token for token in tokens if len(token) == 1}
