"""tokenizer.json: expressions that never end, ids that nobody has, depths."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.robust.cases.base import Case, Place, cases

DEEP = 10_000
FOREVER = (
    r"(a+)+$",
    r"(a|a)*b",
    r"(a|aa)+$",
    r"(.*)*x",
    r"(\s*)*!",
    r"([a-zA-Z]+)*\d",
    r"(?:(?:a*)*)*b",
    r"(x+x+)+y",
    r"((((a*)*)*)*)*b",
    r"(?=(a+)+b)c",
    r"^(([a-z])+.)+[A-Z]([a-z])+$",
    r"(\w+\s?)*\Z\b!",
)


def _tokenizer(change: Callable[[dict[str, Any]], object]) -> Callable[[Place], None]:
    return lambda place: place.edit("tokenizer.json", lambda value: change(value) and None)


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _grow(times: int) -> dict[str, Any]:
    """A normalizer that makes a text twice as long, so many times."""
    steps = [{"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}] * times
    return {"type": "Sequence", "normalizers": steps}


def _nested(times: int) -> str:
    return '{"type":"Sequence","normalizers":[' * times + '{"type":"NFC"}' + "]}" * times


def _with_text(word: str, text: str) -> Callable[[Place], None]:
    """The file with `text`, JSON, as the value of `word`."""

    def make(place: Place) -> None:
        value = place.read("tokenizer.json") | {word: "HERE"}
        place.write("Tiny/tokenizer.json", json.dumps(value).replace('"HERE"', text))

    return make


def _vocabulary(change: Callable[[dict[str, int]], object]) -> Callable[[Place], None]:
    return _tokenizer(lambda value: change(value["model"]["vocab"]))


def _last(number: Any) -> Callable[[dict[str, Any]], None]:
    return lambda vocabulary: vocabulary.update({list(vocabulary)[-1]: number})


def _added(**words: Any) -> Callable[[Place], None]:
    token = {
        "id": 383,
        "content": "<x>",
        "special": True,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
    }
    return _tokenizer(lambda value: value["added_tokens"].append(token | words))


def _large(place: Place) -> None:
    place.write("Tiny/tokenizer.json", '{"a": "' + "x" * (65 << 20) + '"}')


def _sentencepiece(raw: bytes) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        (place.model / "tokenizer.json").unlink()
        place.write("Tiny/tokenizer.model", raw)

    return make


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _pieces(count: int) -> bytes:
    """A model of so many pieces, each of no text."""
    return b"\x0a\x02\x0a\x00" * count


HARMLESS = ("the normalizer doubles 4 times",)
ODD = {
    "nested 10,000 deep": lambda p: p.write("Tiny/tokenizer.json", '{"a":' * DEEP + "1" + "}" * DEEP),
    "a normalizer within 120": _with_text("normalizer", _nested(120)),
    "a normalizer within 5,000": _with_text("normalizer", _nested(5000)),
    "the normalizer doubles 40 times": _tokenizer(lambda v: v.update(normalizer=_grow(40))),
    "the normalizer makes much of nothing": _tokenizer(lambda v: v.update(normalizer=_replace("", "x" * 1_000_000))),
    "an id of 10**12": _vocabulary(_last(10**12)),
    "an id of 2**31": _vocabulary(_last(2**31)),
    "a negative id": _vocabulary(_last(-1)),
    "an id that is a word": _vocabulary(_last("7")),
    "an id that is a float": _vocabulary(_last(7.5)),
    "an id twice": _vocabulary(_last(7)),
    "a gap of a billion": _vocabulary(_last(10**9)),
    "no vocabulary": _tokenizer(lambda v: v["model"].pop("vocab")),
    "a vocabulary that is a word": _tokenizer(lambda v: v["model"].update(vocab="all")),
    "merges of what is not there": _tokenizer(lambda v: v["model"].update(merges=[["qq", "zz"]])),
    "merges of one part": _tokenizer(lambda v: v["model"].update(merges=["alone"])),
    "merges that are numbers": _tokenizer(lambda v: v["model"].update(merges=[1, 2, 3])),
    "an unknown model": _tokenizer(lambda v: v["model"].update(type="Doom")),
    "a model that is a list": _tokenizer(lambda v: v.update(model=[])),
    "an unknown pre-tokenizer": _tokenizer(lambda v: v.update(pre_tokenizer={"type": "Doom"})),
    "a regular expression that is none": _tokenizer(lambda v: v.update(pre_tokenizer=_split("(["))),
    "a regular expression of 100,000 brackets": _tokenizer(
        lambda v: v.update(pre_tokenizer=_split("(" * 100_000 + ")" * 100_000))
    ),
    "a regular expression with a count of a billion": _tokenizer(
        lambda v: v.update(pre_tokenizer=_split("(a{1000}){1000}"))
    ),
    "an added token with an id of 10**12": _added(id=10**12),
    "an added token with the id of another": _added(id=3),
    "an added token of nothing": _added(content=""),
    "an added token of a megabyte": _added(content="x" * (1 << 20)),
    "an added token with a NUL": _added(content="a\0b"),
    "an added token that clears the screen": _added(content="\x1b[2J"),
    "65 MB": _large,
    "sentencepiece: garbage": _sentencepiece(bytes(range(256)) * 40),
    "sentencepiece: empty": _sentencepiece(b""),
    "sentencepiece: a length of 2**60": _sentencepiece(b"\x0a" + _varint(1 << 60)),
    "sentencepiece: a million pieces of nothing": _sentencepiece(_pieces(1_000_000)),
    "sentencepiece: groups within groups": _sentencepiece(b"\x0b" * 100_000),
}
CASES = [
    *(
        Case(
            "tokenizer",
            f"the expression {pattern}",
            _tokenizer(lambda v, pattern=pattern: v.update(pre_tokenizer=_split(pattern))),
            harmless=True,
        )
        for pattern in FOREVER
    ),
    *(
        Case(
            "tokenizer",
            f"a normalizer by {pattern}",
            _tokenizer(lambda v, pattern=pattern: v.update(normalizer=_replace(pattern, "y"))),
            harmless=True,
        )
        for pattern in FOREVER[:6]
    ),
    *cases("tokenizer", ODD, harmless=True),
]
