"""What a model is calibrated on, as rows of tokens: the default mix, or a text, conversations and screenshots.

rows = make_rows(folder, Description(samples=128, length=512))       of the default mix
rows = make_rows(folder, Description(text="notes.txt", seed=1))      of a recipe's own files
windows = first_windows(session, Path("notes.txt"), 128, 512)        as llama-imatrix cuts a text
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convert.calibration import mix
from convert.calibration.conversation import rendered
from convert.errors import InputError, StageError
from convert.json_types import JsonDict, JsonObject
from convert.source.companions import read_text

if TYPE_CHECKING:
    from validate.runtimes._folder import CheckpointFolder
    from validate.runtimes.base import ReferenceSession, Session

MAX_TEXT_BYTES = 1 << 30
CHARACTERS_A_TOKEN = 16  # of a text, that are tokenized for every token asked for: more than enough to choose from
FIRST_CHARACTERS = 8  # a token, of a text whose beginning is read: tried first, twice as many while they do not suffice

FEWEST_OWN = 4

Row = Mapping[str, np.ndarray]  # input_ids (1, token) and what else the model takes beside them


@dataclass(frozen=True)
class Description:
    """Where rows come from: any of the three, else the default mix.

    `samples` rows in all, evenly from each file or by the mix's shares, of at most `length` tokens.
    """

    text: str = ""  # a UTF-8 text
    chat: str = ""  # JSON lines of {"messages": [...], "tools": [...]}
    screens: str = ""  # JSON lines of image, instruction and target, as for validation
    samples: int = 128
    length: int = 512
    seed: int = 0


def make_rows(folder: CheckpointFolder, asked: Description) -> list[Row]:
    """The rows, by the tokenizer, templates and image processor of `folder` (a CheckpointFolder).

    Equal files and seeds give equal rows. Raises StageError where there is nothing to take.
    """
    if not (asked.text or asked.chat or asked.screens):
        return [_row(tokens) for tokens in mix_windows(folder, asked.samples, asked.length, asked.seed)]
    makers = ((_text_rows, asked.text), (_chat_rows, asked.chat), (_screen_rows, asked.screens))
    named = [(make, Path(where)) for make, where in makers if where]
    share = max(1, asked.samples // max(1, len(named)))
    draw = random.Random(asked.seed)
    rows = [row for make, path in named for row in make(folder, path, share, asked.length, draw)]
    if not rows:
        got = "no row to calibrate on"
        raise StageError("calibration", got, f"at least one of {asked.length} tokens", "name a longer text")
    return rows


@dataclass(frozen=True)
class HeldOut:
    """Rows of text that nothing was calibrated on: of the calibration's files, and of the default mix where those end.

    The two are never read together: text that a model was not made for drifts a hundred times as far, and would decide.
    """

    own: list[list[int]]
    mixed: list[list[int]]

    @property
    def rows(self) -> list[list[int]]:
        """The calibration's own where there are a few, else the mix's."""
        return self.own if len(self.own) >= FEWEST_OWN else self.mixed


def held_out(folder: CheckpointFolder, asked: Description, rows: Sequence[Row], count: int) -> HeldOut:
    """About `count` rows that none of `rows` is, of the same files; of the default mix where those end.

    What is chosen by its drift is compared on them: what it was calibrated on would flatter it.
    """
    known = {tuple(row["input_ids"][0].tolist()) for row in rows}
    more = replace(asked, screens="", samples=4 * asked.samples + 4 * count, seed=asked.seed + 1)
    named = make_rows(folder, more) if asked.text or asked.chat else []
    texts = [row["input_ids"][0].tolist() for row in named]
    own = [text for text in texts if len(text) > asked.length // 4 and tuple(text) not in known]
    mixed = mix_windows(folder, len(rows) + count, asked.length, asked.seed)
    unread = [tokens for tokens in mixed if tuple(tokens) not in known]
    step = max(1, len(own) // count)  # spread over the text
    own = own[::step][:count]
    return HeldOut(own, unread[:count])


def summary(rows: Sequence[Row]) -> JsonDict:
    """How many rows and tokens there are, and their hash."""
    return {"rows": len(rows), "tokens": sum(row["input_ids"].size for row in rows), "sha256": digest(rows)}


def mix_windows(session: ReferenceSession, count: int, length: int, seed: int = 0) -> list[list[int]]:
    """Windows of the default mix, each of exactly `length` tokens of one of its parts, BOS first where the model wants.

    The parts take turns, so that every beginning has about as much of each as the whole.
    """
    lead = _lead(session)
    shares = mix.shares(count)
    found = [
        ((i + 0.5) / shares[part.name], [*lead, *tokens])
        for part in mix.PARTS
        for i, tokens in enumerate(_cut(_stream(session, part, seed), length - len(lead), shares[part.name]))
    ]
    return [tokens for _, tokens in sorted(found, key=lambda one: one[0])]


def _cut(stream: Iterator[int], length: int, count: int) -> Iterator[list[int]]:
    for _ in range(count):
        yield list(itertools.islice(stream, length))


def _stream(session: ReferenceSession, part: mix.Part, seed: int) -> Iterator[int]:
    """The part's tokens, without end: texts with an empty line between, conversations as the model is sent them."""
    lead = _lead(session)
    for document in part.documents(seed):
        if document.text:
            yield from session.tokenize(document.text + "\n\n", parse_special=False)
            continue
        text, special = rendered(session, document.messages, document.tools)
        tokens = session.tokenize(text, parse_special=special)
        yield from tokens[1:] if lead and list(tokens[:1]) == lead else tokens


def first_windows(
    session: Session, path: Path, count: int, length: int, parse_special: bool = False
) -> list[list[int]]:
    """The first windows of a text, as llama-imatrix cuts it: they do not overlap, and all have `length` tokens.

    Fewer than `count` where the text ends first. Raises StageError when there is none.
    """
    lead = _lead(session)
    tokens = lead + _first_tokens(session, read_text(path, MAX_TEXT_BYTES), count * length, parse_special)
    if len(tokens) < length:
        raise StageError(str(path), f"{len(tokens)} tokens", f"at least one window of {length}", "name a longer text")
    starts = range(0, min(len(tokens) // length, count) * length, length)
    # as llama-imatrix: BOS takes the place of a window's first token
    return [[*lead, *tokens[start + len(lead) : start + length]] for start in starts]


def _first_tokens(session: Session, text: str, count: int, parse_special: bool) -> list[int]:
    """The first `count` tokens of the text, or all; no more of it is tokenized than that takes."""
    length = count * FIRST_CHARACTERS
    while True:
        tokens = list(session.tokenize(text[:length], parse_special=parse_special))
        if len(tokens) > count or length >= len(text):
            return tokens[:count]
        length *= 2


def _lead(session: Session) -> list[int]:
    identity = session.identity()
    return [identity.bos] if identity.adds_bos else []


def digest(rows: Sequence[Row]) -> str:
    """sha256 over every row's arrays."""
    total = hashlib.sha256()
    for row in rows:
        for name, array in sorted(row.items()):
            total.update(f"{name}{array.dtype}{array.shape}".encode())
            total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def _text_rows(folder: CheckpointFolder, path: Path, count: int, length: int, draw: random.Random) -> Iterator[Row]:
    """Windows that do not overlap, drawn from the beginning of the text; each begins with BOS where the model wants."""
    text = read_text(path, MAX_TEXT_BYTES)[: count * length * CHARACTERS_A_TOKEN]
    lead = _lead(folder)
    tokens = folder.tokenize(text)
    step = length - len(lead)
    starts = list(range(0, len(tokens) - step + 1, step))
    for start in sorted(draw.sample(starts, min(count, len(starts)))):
        yield _row([*lead, *tokens[start : start + step]])


def _chat_rows(folder: CheckpointFolder, path: Path, count: int, length: int, draw: random.Random) -> Iterator[Row]:
    lines = read_conversations(path)
    for messages, tools in draw.sample(lines, min(count, len(lines))):
        yield _row(folder.tokenize(folder.render(messages, tools, False))[:length])


def _screen_rows(folder: CheckpointFolder, path: Path, count: int, length: int, draw: random.Random) -> Iterator[Row]:
    """An image and its instruction as the model is asked; never cut, for half an image is none."""
    from validate import vision

    try:
        tasks = vision.read_clicks(path)
        for task in draw.sample(tasks, min(count, len(tasks))):
            prompt = folder.image_prompt(task.instruction, task.tools)
            yield folder.image_inputs([prompt], [vision.read_image(task.image)])
    except ValueError as error:
        raise InputError(str(path), str(error), "screenshots with instructions") from error


def _row(tokens: list[int]) -> Row:
    ids = np.array([tokens], np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def read_conversations(path: Path) -> list[tuple[list[JsonObject], list[JsonObject] | None]]:
    """(messages, tools) of every line; raises InputError with the line's number for one that is none."""
    found = []
    for number, line in enumerate(read_text(path, MAX_TEXT_BYTES).splitlines(), 1):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
            messages = raw["messages"] if isinstance(raw, dict) else raw
            if not isinstance(messages, list) or not all(isinstance(m, dict) and "role" in m for m in messages):
                raise TypeError("messages are no list of {role, content}")
        except (ValueError, KeyError, TypeError) as error:
            wanted = '{"messages": [{"role": …, "content": …}]}'
            raise InputError(f"{path}:{number}", f"not a conversation ({error!r})", wanted) from None
        found.append((messages, raw.get("tools") if isinstance(raw, dict) else None))
    return found
