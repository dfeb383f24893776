"""The default mix: English, 21 other languages, code, conversations with tools, mathematics, instructions and tables.

All of it is ours: texts written for it (texts/*.txt, *.jsonl) and, behind them, texts drawn by rules (texts/*.rules,
maths.py, talks.py), without end. README.md beside this file says how much there is of each.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from convert.calibration import maths, talks
from convert.calibration.draw import Draw
from convert.calibration.grammar import Rules, parse, write
from convert.json_types import JsonDict

TEXTS = Path(__file__).parent / "texts"
HASHED_BYTES = 65_536  # of each part: what was written and every rule of what was drawn are in them
NAME = "the default mix"


@dataclass(frozen=True)
class Document:
    """A text, or a conversation for the model's own template."""

    text: str = ""
    messages: list[JsonDict] = field(default_factory=list)
    tools: list[JsonDict] = field(default_factory=list)

    @property
    def plain(self) -> str:
        """All its words, also those of a conversation."""
        return self.text or json.dumps([self.messages, self.tools], ensure_ascii=False)


@dataclass(frozen=True)
class Part:
    """A kind of text, and its share of the rows, of 128."""

    name: str
    share: int
    written: Callable[[], list[Document]]
    drawn: Callable[[Draw], Iterator[Document]]

    def documents(self, seed: int = 0) -> Iterator[Document]:
        """What was written, in the seed's order, a drawn document behind each; then drawn ones without end."""
        draw = Draw(f"{self.name} {seed}")
        written, drawn = self.written(), self.drawn(draw)
        for place in draw.order(len(written)):
            yield written[place]
            yield next(drawn)
        yield from drawn


@functools.cache
def sha256() -> str:
    """Of what the mix says: changes when a text, a rule or how rules are followed does."""
    found = hashlib.sha256()
    for part in PARTS:
        found.update(f"\n{part.name} {part.share}\n".encode())
        found.update(beginning(part, HASHED_BYTES).encode())
    return found.hexdigest()


def files() -> list[Path]:
    """Where its words are written, to be compared with other texts."""
    return sorted(path for path in TEXTS.iterdir() if path.suffix in (".txt", ".jsonl", ".rules"))


def beginning(part: Part, size: int, seed: int = 0) -> str:
    """The part's first documents, at least `size` bytes of them."""
    kept: list[str] = []
    for document in part.documents(seed):
        kept.append(document.plain)
        size -= len(kept[-1].encode())
        if size <= 0:
            break
    return "\n\n".join(kept)


def shares(rows: int) -> dict[str, int]:
    """Part -> how many of so many rows, by largest remainder."""
    total = sum(part.share for part in PARTS)
    exact = {part.name: rows * part.share / total for part in PARTS}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: rows - sum(counts.values())]:
        counts[name] += 1
    return counts


def _read(name: str) -> str:
    return (TEXTS / name).read_text(encoding="utf-8")


def _sections(text: str) -> dict[str, str]:
    """Title -> what stands below its line `=== title`."""
    found: dict[str, list[str]] = {}
    title = ""
    for line in text.splitlines():
        if line.startswith("=== "):
            title = line[4:]
            found[title] = []
        else:
            found[title].append(line)
    return {name: "\n".join(lines) for name, lines in found.items()}


def _texts(name: str) -> list[Document]:
    return [Document(text) for text in _sections(_read(name)).values()]


def _talks() -> list[Document]:
    found = [json.loads(line) for line in _read("talks.jsonl").splitlines()]
    return [Document(messages=talk["messages"], tools=talk.get("tools", [])) for talk in found]


def _nothing() -> list[Document]:
    return []


@functools.cache
def _rules(name: str) -> Rules:
    return parse(_read(name))


def _by_rules(name: str, draw: Draw) -> Iterator[Document]:
    while True:
        yield Document(write(_rules(name), draw))


def _languages(draw: Draw) -> Iterator[Document]:
    """A document in each language in turn, each language drawn by itself; two where there is much to draw from."""
    rules = {name: parse(text) for name, text in _sections(_read("languages.rules")).items()}
    draws = {name: Draw(f"{name} {draw.below(1 << 32)}") for name in rules}
    turns = [name for name, found in rules.items() for _ in range(1 + len(found["s"]) // 9)]
    while True:
        for name in (turns[place] for place in draw.order(len(turns))):
            yield Document(write(rules[name], draws[name]))


def _problems(draw: Draw) -> Iterator[Document]:
    while True:
        yield Document("\n\n".join(maths.problem(draw) for _ in range(draw.number(1, 3))))


def _conversations(draw: Draw) -> Iterator[Document]:
    """Calls of tools, and in turn with them questions whose answers are texts of the other parts."""
    rules = _rules("talks.rules")
    seed = draw.below(1 << 32)
    answers = {p.name: _drawn_texts(p, Draw(f"{p.name} answers {seed}")) for p in PARTS if p.name != "conversations"}
    while True:
        for talk in (talks.conversation(rules, draw), talks.answered(rules, draw, answers)):
            yield Document(messages=talk["messages"], tools=talk["tools"])


def _drawn_texts(part: Part, draw: Draw) -> Iterator[str]:
    return (document.text for document in part.drawn(draw))


PARTS = (
    Part("English", 36, lambda: _texts("english.txt"), lambda draw: _by_rules("english.rules", draw)),
    Part("languages", 24, _nothing, _languages),
    Part("code", 24, lambda: _texts("code.txt"), lambda draw: _by_rules("code.rules", draw)),
    Part("conversations", 22, _talks, _conversations),
    Part("mathematics", 11, lambda: _texts("maths.txt"), _problems),
    Part("instructions", 11, lambda: _texts("howto.txt"), lambda draw: _by_rules("howto.rules", draw)),
)


def first(part: Part, count: int, seed: int = 0) -> list[Document]:
    """The part's first documents."""
    return list(itertools.islice(part.documents(seed), count))
