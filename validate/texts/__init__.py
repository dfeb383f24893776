"""What drift and perplexity are measured on: input sets, cut into windows of the model's own tokens.

    sets = default_sets()            prose, code, several languages, conversations with tool calls; all our own
    sets = [read_set(Path("notes.md")), read_set(Path("chats.jsonl"))]
    windows = windows(reference, sets, tokens=2048, window=512)

A text is one stream of tokens. A conversation is rendered with the model's own template and begins with an empty cache,
as a chat does; it shares no window with another.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from validate.errors import Endless
from validate.json_types import Message
from validate.runtimes.base import Session
from validate.samples import Conversation
from validate.texts._chats import conversations
from validate.toolcalls import Prompt

MAX_BYTES = 256 << 20  # of a file; what is measured on is its first few thousand tokens
MAX_PROMPTS = 16  # that ask for a tool call
MAX_PROMPT_TOKENS = 2048  # of each
CHARACTERS_A_TOKEN = 16  # of a beginning that holds enough tokens for sure: English has 4, spaces and "=====" more
_DEFAULT = ("prose.txt", "code.txt", "multilingual.txt", "tools.jsonl")


@dataclass(frozen=True)
class InputSet:
    """A text, or conversations; `sha256` is of the file, `source` says where that is."""

    name: str
    kind: Literal["text", "chat"]
    sha256: str
    text: str = ""
    conversations: Sequence[Conversation] = ()
    source: str = ""


@dataclass(frozen=True)
class SetEntry:
    """What was used of one input set, as the report has it."""

    name: str
    kind: Literal["text", "chat"]
    sha256: str
    tokens: int
    windows: int
    source: str = ""
    tokens_sha256: str = ""


@dataclass(frozen=True)
class Windows:
    """Windows of tokens, the set that each is of, an entry for every set, and what could not be used."""

    tokens: list[list[int]]
    sets: list[str]
    entries: list[SetEntry]
    notes: list[str]


# ---- sets


@cache
def default_sets() -> tuple[InputSet, ...]:
    """Our own sets, for when a recipe names none."""
    ours = ((path.name, read_set(path, path.stem)) for path in default_files())
    return tuple(replace(found, source=f"our own {name}") for name, found in ours)


def default_files() -> tuple[Path, ...]:
    """Where our own sets are."""
    return tuple(Path(__file__).with_name(name) for name in _DEFAULT)


def read_set(path: Path, name: str = "") -> InputSet:
    """The set in a file: conversations where its name ends in .jsonl, else text; called as the file, or `name`.

    Raises ValueError, which names file and line, for what is neither.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ValueError(f"{path} has {size} bytes; wanted at most {MAX_BYTES}: its first part is enough")
        raw = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    try:
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: not UTF-8 ({error.reason}); wanted a UTF-8 text") from error
    name, digest = name or path.name, hashlib.sha256(raw).hexdigest()
    if path.suffix.lower() == ".jsonl":
        return InputSet(name, "chat", digest, conversations=conversations(text, str(path)), source=str(path))
    if not text.strip():
        raise ValueError(f"{path} has no text in it; wanted a text to measure on")
    return InputSet(name, "text", digest, text, source=str(path))


# ---- windows


def windows(reference: Session, sets: Sequence[InputSet], tokens: int, window: int) -> Windows:
    """At most `tokens` tokens of all sets in windows that do not overlap, each of at most `window` tokens.

    Every set gets the same share; what a short one leaves goes to the others. Where the model puts BOS before a text,
    every window starts with one: that is what the model was trained to see.
    """
    streams: list[list[list[int]]] = []
    notes: list[str] = []
    for one in sets:
        found, said = _streams(reference, one, tokens)
        streams.append(found)
        notes += said
    lead = _lead(reference)
    made = Windows([], [], [], notes)
    shares = _shares([sum(map(len, found)) for found in streams], tokens)
    for one, name, found, share in zip(sets, distinct(sets), streams, shares, strict=True):
        cut = [w for ids in _first(found, share) for w in _cut(ids, window, lead)]
        made.tokens.extend(cut)
        made.sets.extend([name] * len(cut))
        read = sum(map(len, cut))
        made.entries.append(SetEntry(name, one.kind, one.sha256, read, len(cut), one.source, tokens_sha256(cut)))
    return made


def tokens_sha256(windows: Sequence[Sequence[int]]) -> str:
    """Of exactly what is read: for each window its number of tokens, then their ids, as little-endian uint32."""
    found = hashlib.sha256()
    for ids in windows:
        found.update(struct.pack(f"<{1 + len(ids)}I", len(ids), *ids))
    return found.hexdigest()


def mixed(made: Windows) -> Windows:
    """The same windows in another order: every beginning has about as many tokens of each set, while it has any left.

    So that what is read in growing steps is of all sets from the first step on.
    """
    places: dict[str, list[int]] = {name: [] for name in dict.fromkeys(made.sets)}
    for place, name in enumerate(made.sets):
        places[name].append(place)
    read = dict.fromkeys(places, 0)
    order: list[int] = []
    while left := [name for name, of_set in places.items() if of_set]:
        name = min(left, key=read.__getitem__)
        order.append(places[name].pop(0))
        read[name] += len(made.tokens[order[-1]])
    return replace(made, tokens=[made.tokens[i] for i in order], sets=[made.sets[i] for i in order])


def _streams(reference: Session, one: InputSet, tokens: int) -> tuple[list[list[int]], list[str]]:
    """The set's token ids, at most about `tokens`, each stream to be read from an empty cache; and notes."""
    if one.kind == "text":
        return [_first_tokens(reference, one.text, tokens)], []
    if not reference.identity().templates:
        return [], [f"{one.name} left out: the model has no chat template"]
    found: list[list[int]] = []
    refused: dict[str, list[str]] = {}
    for talk in one.conversations:
        if sum(map(len, found)) >= tokens:
            break
        try:
            found.append(_rendered(reference, talk.messages, talk.tools, False))
        except _Refused as error:
            refused.setdefault(str(error), []).append(talk.name)
    return found, [f"{one.name}: {', '.join(_few(who))} left out: {why}" for why, who in refused.items()]


def _first_tokens(reference: Session, text: str, tokens: int) -> list[int]:
    """The first `tokens` tokens of a text, without cutting all of a long one into tokens.

    A beginning's tokens are those of the whole text but for the last few, where it was cut.
    """
    beginning = text[: CHARACTERS_A_TOKEN * (tokens + 64)]
    ids = reference.tokenize(beginning)
    if len(beginning) < len(text) and len(ids) < tokens + 32:
        ids = reference.tokenize(text)
    return ids[:tokens]


class _Refused(ValueError):
    """A template refused a conversation; the message is its own."""


def _rendered(
    reference: Session, messages: Sequence[Message], tools: Sequence[Message] | None, generation_prompt: bool
) -> list[int]:
    """The ids of a conversation as the model is sent it, without the BOS that a window begins with anyway."""
    try:
        text = reference.render(messages, tools, generation_prompt)
    except Endless:
        raise
    except Exception as error:  # a template raises what it likes: jinja2's errors, and those of what it calls
        lines = str(error).strip().splitlines()
        raise _Refused(f"the chat template refuses it: {lines[0] if lines else type(error).__name__}") from error
    ids = reference.tokenize(text, parse_special=True)
    lead = _lead(reference)
    return ids[1:] if lead and ids[:1] == lead else ids


def _lead(reference: Session) -> list[int]:
    identity = reference.identity()
    return [identity.bos] if identity.adds_bos else []


def _first(streams: Sequence[list[int]], tokens: int) -> Iterator[list[int]]:
    """The streams' first tokens, so many in all."""
    for ids in streams:
        if tokens > 0:
            yield ids[:tokens]
        tokens -= len(ids)


def _cut(ids: list[int], window: int, lead: list[int]) -> list[list[int]]:
    """Windows of a stream; one token alone predicts nothing and is left out."""
    step = window - len(lead)
    cut = [lead + ids[i : i + step] for i in range(0, len(ids), step)]
    return [w for w in cut if len(w) >= 2]


def _shares(lengths: Sequence[int], tokens: int) -> list[int]:
    """How many tokens of each set: the same of all, and what the short ones leave to the others. `tokens` in all."""
    shares = [0] * len(lengths)
    left = tokens
    for place, i in enumerate(sorted(range(len(lengths)), key=lambda i: lengths[i])):
        shares[i] = min(lengths[i], math.ceil(left / (len(lengths) - place)))
        left -= shares[i]
    return shares


def distinct(sets: Sequence[InputSet]) -> list[str]:
    """The sets' names, numbered where two are called the same."""
    names: list[str] = []
    for one in sets:
        again = sum(name == one.name or name.startswith(f"{one.name} (") for name in names)
        names.append(f"{one.name} ({again + 1})" if again else one.name)
    return names


def _few(names: Sequence[str], shown: int = 3) -> list[str]:
    return [*names[:shown], *([f"{len(names) - shown} more"] if len(names) > shown else [])]


# ---- tool calls


def tool_prompts(
    sets: Sequence[InputSet], reference: Session, most: int = MAX_PROMPTS, longest: int = MAX_PROMPT_TOKENS
) -> list[Prompt]:
    """The beginnings of conversations that end where the assistant calls a tool next.

    A template that shows the model no tools, or refuses the conversation, asks for none; those of more than `longest`
    tokens are left out. Where there are more than `most`, they are taken evenly from all.
    """
    if not reference.identity().templates:
        return []
    places = [
        (talk, i)
        for one in sets
        for talk in one.conversations
        for i, message in enumerate(talk.messages)
        if talk.tools and message.get("tool_calls") and i > 0
    ]
    prompts: list[Prompt] = []
    for talk, i in places:
        try:
            prompts.append(Prompt(_asked(reference, talk, i), talk.tools))
        except _Refused:
            continue
    prompts = [prompt for prompt in prompts if len(prompt.tokens) <= longest]
    if len(prompts) <= most:
        return prompts
    return [prompts[i * len(prompts) // most] for i in range(most)]


def _asked(reference: Session, talk: Conversation, place: int) -> list[int]:
    """Ids of the messages before `place`, with the lead of a window and the prompt to answer."""
    before = talk.messages[:place]
    shown = _rendered(reference, before, talk.tools, True)
    if shown == _rendered(reference, before, None, True):
        raise _Refused("the template shows the model no tools")
    return [*_lead(reference), *shown]
