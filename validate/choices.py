"""Multiple-choice items: a text, what may follow it, and which of that is right. Ours, a recipe's, lm-eval's.

    sets = [ours(), read_items(Path("samples_arc_easy.jsonl"))]
    questions = tokenized(sets, reference, longest=512)

An item's choices are scored as lm-eval scores them: by the sum of the log-probabilities of a choice's tokens behind its
context (`acc`), and by that sum over the choice's characters (`acc_norm`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from validate.logits import check_finite, exponentials
from validate.runtimes.base import Session

OURS = "ours"  # what a recipe writes for our own
OUR_FILE = Path(__file__).with_name("texts") / "choices.jsonl"
MAX_BYTES = 256 << 20  # of a file
_TAIL_CHARACTERS = 80  # of a context, that are shown


@dataclass(frozen=True)
class Item:
    """A question; each choice has its own context, which is the same for all but where a gap is filled in."""

    contexts: Sequence[str]
    choices: Sequence[str]  # with the space before them, if they have one
    right: int


@dataclass(frozen=True)
class ItemSet:
    """The items of a file; `sha256` is of the file."""

    name: str
    sha256: str
    items: Sequence[Item]


@dataclass(frozen=True)
class Question:
    """An item as a model is asked: of each choice the ids, how many of the last are its own, and its characters."""

    set: str
    shown: str  # the end of the context
    choices: Sequence[str]
    right: int
    tokens: Sequence[Sequence[int]]
    own: Sequence[int]

    @property
    def lengths(self) -> list[int]:
        """Characters of each choice without the space before it, which lm-eval does not count either."""
        return [max(1, len(choice.removeprefix(" "))) for choice in self.choices]


@cache
def ours() -> ItemSet:
    """Our own items, in English: facts, common sense, arithmetic, grammar, code."""
    return read_items(OUR_FILE, name=OURS)


# ---- files


def read_items(path: Path, limit: int | None = None, name: str = "") -> ItemSet:
    """The items of a file of JSON lines, the first `limit` of them.

    A line is one of: {question | query | ctx | context | prompt, choices | endings | options, answer | gold | label |
    answerKey}, and `target_delimiter` where that is no space; the same with ARC's {choices: {text, label}}; what
    `lm-eval --log_samples` writes (arguments, target).
    A `question` is asked as "Question: …\\nAnswer:", the others are read as they stand. Raises ValueError, which names
    file and line, for what is none of these.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ValueError(f"{path} has {size} bytes; wanted at most {MAX_BYTES}")
        raw = path.read_bytes()
        lines = raw.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason}); wanted JSON lines of multiple-choice items") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise ValueError(f"{path} holds no item; wanted JSON lines of multiple-choice items")
    items = [_item(line, f"{path}:{number}") for number, line in numbered[:limit]]
    return ItemSet(name or path.name, hashlib.sha256(raw).hexdigest(), items)


_Line = Mapping[str, object]


def _item(line: str, where: str) -> Item:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({error}); wanted an item as an object in one line") from error
    except RecursionError as error:
        raise ValueError(f"{where}: nested too deep; wanted an item as an object in one line") from error
    if not isinstance(found, dict):
        raise ValueError(f"{where}: {type(found).__name__}; wanted an item as an object in one line")
    try:
        item = _logged(found) if "arguments" in found else _plain(found)
    except _Wrong as error:
        raise ValueError(f"{where}: {error}") from error
    if len(item.choices) < 2:
        raise ValueError(f"{where}: {len(item.choices)} choices; wanted two or more")
    return item


class _Wrong(ValueError):
    """What is wrong with a line, without its place."""


_CONTEXTS = ("query", "ctx", "context", "prompt")  # read as they stand
_CHOICES = ("choices", "endings", "options")
_ANSWERS = ("answer", "gold", "label", "answerKey", "target")


def _plain(line: _Line) -> Item:
    found = _first(line, _CHOICES)
    labels: Sequence[str] = ()
    if isinstance(found, dict):  # ARC
        labels, found = _texts(found.get("label"), "choices.label"), found.get("text")
    choices = _texts(found, " or ".join(_CHOICES))
    context = _context(line)
    right = _right(_first(line, _ANSWERS), choices, labels)
    between = line.get("target_delimiter", " ")  # lm-eval's word
    spaced = [choice if choice[:1].isspace() else f"{between}{choice}" for choice in choices]
    return Item([context] * len(choices), spaced, right)


def _context(line: _Line) -> str:
    for name in _CONTEXTS:
        if isinstance(text := line.get(name), str) and text.strip():
            return text
    question = line.get("question")
    if isinstance(question, str) and question.strip():
        return f"Question: {question}\nAnswer:"
    raise _Wrong(f"no text under {', '.join(('question', *_CONTEXTS))}; it has {', '.join(line) or 'nothing'}")


def _logged(line: _Line) -> Item:
    """A line of samples_*.jsonl: pairs of a context and what follows, in a list or under gen_args_0, arg_0."""
    found = line["arguments"]
    rows = list(found.values()) if isinstance(found, dict) else found
    if not isinstance(rows, list):
        raise _Wrong(f"arguments is {type(found).__name__}; wanted pairs of a context and a continuation")
    pairs = [list(row.values()) if isinstance(row, dict) else row for row in rows]
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise _Wrong(
                "arguments holds no pairs of a context and a continuation; only samples of multiple-choice tasks are "
                "taken, not those in which the model writes"
            )
    choices = [pair[1] for pair in pairs]
    return Item([pair[0] for pair in pairs], choices, _right(line.get("target"), [c.strip() for c in choices], ()))


def _right(found: object, choices: Sequence[str], labels: Sequence[str]) -> int:
    """The place of the right choice: a label's, a number from 0 on, a letter, or the choice's own text."""
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if isinstance(found, bool) or not isinstance(found, int | str):
        named = f"{found!r} under" if found is not None else "nothing under"
        raise _Wrong(f"{named} {', '.join(_ANSWERS)}; wanted the number or the letter of the right choice")
    word = str(found).strip()
    places = [*labels[: len(choices)]] or [str(i) for i in range(len(choices))]
    letters = [chr(ord("A") + i) for i in range(len(choices))]
    for names in (places, letters, [letter.lower() for letter in letters], [c.strip() for c in choices]):
        if word in names:
            return list(names).index(word)
    raise _Wrong(f"the right choice is {word!r}, which is none of its {len(choices)}; numbers count from 0")


def _first(line: _Line, names: Sequence[str]) -> object:
    return next((line[name] for name in names if line.get(name) is not None), None)


def _texts(found: object, what: str) -> list[str]:
    if not (isinstance(found, list) and all(isinstance(text, str | int | float) for text in found)):
        raise _Wrong(f"no list of texts under {what}")
    return [str(text) for text in found]


# ---- tokens


def tokenized(sets: Sequence[ItemSet], reference: Session, longest: int) -> tuple[list[Question], int]:
    """The questions of all items in the model's tokens, and how many were cut.

    What is longer than `longest` tokens loses its beginning, as lm-eval cuts it at the end of a model's context.
    """
    questions, cut = list[Question](), 0
    for one in sets:
        for item in one.items:
            rows = [_encoded(reference, *pair) for pair in zip(item.contexts, item.choices, strict=True)]
            cut += any(len(ids) > longest for ids, _ in rows)
            tokens = [ids[-longest:] for ids, _ in rows]
            own = [min(count, len(ids) - 1) for (_, count), ids in zip(rows, tokens, strict=True)]
            shown = re.sub(r"\s+", " ", item.contexts[0])[-_TAIL_CHARACTERS:]
            questions.append(Question(one.name, shown, item.choices, item.right, tokens, own))
    return questions, cut


def _encoded(reference: Session, context: str, choice: str) -> tuple[list[int], int]:
    """The ids of both, and how many of the last are the choice's: those behind as many as the context has alone.

    Spaces at a context's end go to the choice, of whose first token they are a part in most vocabularies; so lm-eval.
    """
    bare = context.rstrip()
    spaces = context[len(bare) :]
    identity = reference.identity()
    lead = [identity.bos] if identity.adds_bos else []

    def encode(text: str) -> list[int]:
        ids = reference.tokenize(text)
        return ids if not lead or ids[:1] == lead else [*lead, *ids]

    before, whole = encode(bare), encode(bare + spaces + choice)
    if not before:  # nothing to follow: a text's beginning is what models know it by
        start = [identity.bos if identity.bos >= 0 else max(identity.eos, 0)]
        return [*start, *whole], len(whole)
    if len(whole) <= len(before):  # the choice was drawn into the context's last token
        return [*before, *reference.tokenize(spaces + choice)], max(1, len(reference.tokenize(spaces + choice)))
    return whole, len(whole) - len(before)


# ---- scores


def scores(session: Session, questions: Sequence[Question]) -> Iterator[list[float]]:
    """Of each question the log-probability of every choice behind its context. Raises NotComparable."""
    reads = [_reads(question) for question in questions]
    every = session.logits_of([ids for rows in reads for ids, _ in rows])
    for question, rows in zip(questions, reads, strict=True):
        found = [0.0] * len(question.tokens)
        for _, places in rows:
            logits_tv = next(every)
            for i in places:
                found[i] = _log_probability(logits_tv, question.tokens[i], question.own[i])
        yield found


def _reads(question: Question) -> list[tuple[list[int], list[int]]]:
    """What has to be read, and the choices that it answers: one reading does for all that another begins with.

    The last token of a choice is not read: nothing behind it is asked for. So choices of one token are one reading.
    """
    found: list[tuple[list[int], list[int]]] = []
    for i in sorted(range(len(question.tokens)), key=lambda i: -len(question.tokens[i])):
        ids = list(question.tokens[i][:-1])
        places = next((places for longer, places in found if longer[: len(ids)] == ids), None)
        if places is None:
            found.append((ids, [i]))
        else:
            places.append(i)
    return found


def _log_probability(logits_tv: np.ndarray, tokens: Sequence[int], own: int) -> float:
    first = len(tokens) - 1 - own
    rows = logits_tv[first : first + own]
    check_finite(rows, "the choices'", first)
    chosen = rows[np.arange(own), list(tokens[-own:])].astype(np.float64)
    return float((chosen - exponentials(rows)[2]).sum())
