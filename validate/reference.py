"""The reference, asked once: its answers are kept on disk by content, so that the next look at its outputs is cheap.

FOLDER/<question>.logits.npz    what is kept of a window's logits (compressed_logits.py)
FOLDER/<question>.array.npy     embeddings of an image, or the logits after it
FOLDER/<question>.json          tokens that it chooses, scores of choices

A question's name is the hash of all that its answer depends on, the model and the versions included. A file that is
broken is asked for again; what a run did not ask for is thrown away at its end.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from validate import choices
from validate.choices import Question
from validate.compressed_logits import CompressedLogits, compress
from validate.json_types import Message
from validate.runtimes.base import Identity, ModelSettings, ReferenceSession

CHOICES_TOGETHER = 64  # questions whose scores are one file
FORM = 1  # raise it when a file of the same question would hold something else
_BROKEN = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Cached:
    """What was kept of the reference's logits, over all windows."""

    whole: bool
    bytes: int
    tokens_kept: float  # mean over positions
    tail_mass: float  # mean over positions
    tail_mass_max: float


class Reference(ReferenceSession):
    """A session on the source that remembers what it was asked.

    `folder` is where answers are kept, None to keep them in memory; `key` names the model and the versions that answer;
    `room` is what one token's logits may take, in bytes.
    """

    def __init__(self, session: ReferenceSession, folder: Path | None, key: str, room: int) -> None:
        self._session, self._folder, self._key, self._room = session, folder, key, room
        self._windows: dict[str, tuple[int, Cached]] = {}  # question -> positions, and what they took
        self._held: dict[str, object] = {}  # answers, where there is no folder
        self.passes = 0  # over texts that others wrote; a pass costs as much as the weights take to be read
        self._used: set[Path] = set()

    # ---- what needs no weights is the session's own: tokenizer, templates, sizes of images

    def identity(self) -> Identity:
        return self._identity

    def pieces(self) -> list[str]:
        return self._pieces

    @cached_property
    def _identity(self) -> Identity:
        return self._session.identity()

    @cached_property
    def _pieces(self) -> list[str]:
        """Looked at for every candidate: a dictionary of 150 000 tokens, turned over once."""
        return self._session.pieces()

    @property
    def bytes_to_load(self) -> int:
        return self._session.bytes_to_load

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        return self._session.tokenize(text, add_special=add_special, parse_special=parse_special)

    def tokenize_by_file(self, text: str) -> list[int] | None:
        return self._session.tokenize_by_file(text)

    def detokenize(self, tokens: Sequence[int]) -> str:
        return self._session.detokenize(tokens)

    def settings(self) -> ModelSettings:
        return self._session.settings()

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] | None,
        generation_prompt: bool,
        templates: Mapping[str, str] | None = None,
    ) -> str:
        return self._session.render(messages, tools, generation_prompt, templates)

    @property
    def image_unit(self) -> int:
        return self._session.image_unit

    def image_tokens(self, width: int, height: int) -> int:
        return self._session.image_tokens(width, height)

    def image_rules(self, width: int, height: int) -> Sequence[str]:
        return self._session.image_rules(width, height)

    def image_tokens_by_rule(self, width: int, height: int) -> int | None:
        return self._session.image_tokens_by_rule(width, height)

    def framed(self, pixels: np.ndarray) -> np.ndarray:
        return self._session.framed(pixels)

    def image_prompt(self, text: str, tools: Sequence[Message] | None = None) -> str:
        return self._session.image_prompt(text, tools)

    def mark_images(self, prompt: str) -> str:
        return self._session.mark_images(prompt)

    def processed_size(self, pixels: np.ndarray) -> tuple[int, int]:
        return self._session.processed_size(pixels)

    # ---- what is computed, and remembered

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """All of them, computed and not remembered; see `compressed_logits` for what is."""
        return self._session.logits(tokens)

    def compressed_logits(self, tokens: Sequence[int]) -> CompressedLogits:
        """What is kept of a window's logits."""
        return self._compressed(tokens, lambda: self._session.logits(tokens))

    def compressed_logits_of(
        self, windows: Sequence[Sequence[int]], advance: Callable[[int], None]
    ) -> Iterator[CompressedLogits]:
        """The same of one window after the other; those that are not kept are read together, in one pass.

        `advance` is told of tokens as they are read, those that need not be included.
        """
        reads = {number for number, tokens in enumerate(windows) if not self._has(self._logits_name(tokens))}
        every = self._session.read_windows([windows[number] for number in sorted(reads)], advance)
        for number, tokens in enumerate(windows):
            if number in reads:
                yield self._compressed(tokens, functools.partial(next, every))
            else:
                yield self.compressed_logits(tokens)
                advance(len(tokens))

    def _compressed(self, tokens: Sequence[int], compute: Callable[[], np.ndarray]) -> CompressedLogits:
        name, room = self._logits_name(tokens), self._room * len(tokens)
        compressed = self._remembered(
            name,
            lambda: compress(compute(), tokens, room),
            CompressedLogits.load,
            lambda compressed, path: compressed.save(path),
            lambda compressed: compressed.vocab == self._identity.vocab and compressed.is_of(tokens),
        )
        sizes = Cached(
            compressed.whole, compressed.bytes, compressed.tokens_kept, compressed.tail_mass, compressed.tail_mass_max
        )
        self._windows[name] = compressed.count, sizes
        return compressed

    def _logits_name(self, tokens: Sequence[int]) -> str:
        room = self._room * len(tokens)
        whole = 4 * len(tokens) * self._identity.vocab <= room  # whatever the room: the same logits
        return f"{self._name('logits', list(tokens), 'whole' if whole else room)}.logits.npz"

    def _has(self, name: str) -> bool:
        """Whether an answer is there, sound or not."""
        return name in self._held or (self._folder is not None and (self._folder / name).is_file())

    def choices(self, prompts: Sequence[Sequence[int]], drafts: Sequence[Sequence[int]]) -> list[list[int]]:
        rows = [(list(prompt), list(draft)) for prompt, draft in zip(prompts, drafts, strict=True)]
        return self._chosen(self._name("choices", rows), drafts, lambda: self._session.choices(prompts, drafts))

    def image_choices(
        self, prompts: Sequence[str], images: Sequence[np.ndarray], drafts: Sequence[Sequence[int]]
    ) -> list[list[int]]:
        rows = [
            (prompt, _digest(image), list(draft)) for prompt, image, draft in zip(prompts, images, drafts, strict=True)
        ]
        return self._chosen(
            self._name("image_choices", rows), drafts, lambda: self._session.image_choices(prompts, images, drafts)
        )

    def _chosen(
        self, name: str, drafts: Sequence[Sequence[int]], ask: Callable[[], list[list[int]]]
    ) -> list[list[int]]:
        vocab = self._identity.vocab

        def fits(rows: object) -> bool:
            return isinstance(rows, list) and [len(r) for r in rows if _are_ids(r, vocab)] == [
                len(d) + 1 for d in drafts
            ]

        def counted() -> list[list[int]]:
            self.passes += 1
            return ask()

        return self._written(name, counted, fits)

    def give_back(self, unless_below: int = 0) -> None:
        """Free the weights, unless they take less than so many bytes."""
        if self._session.bytes_held >= unless_below:
            self._session.give_back()

    def embed(self, tokens: Sequence[int]) -> np.ndarray:
        name = self._name("embed", list(tokens))
        return self._array(name, lambda: self._session.embed(tokens), lambda found: found.ndim == 1)

    def image_embeddings(self, pixels: np.ndarray) -> np.ndarray:
        name = self._name("image_embeddings", _digest(pixels))
        return self._array(name, lambda: self._session.image_embeddings(pixels), lambda found: found.ndim == 2)

    def image_logits(self, prompt: str, pixels: np.ndarray) -> np.ndarray:
        name = self._name("image_logits", prompt, _digest(pixels))
        shape = (self._identity.vocab,)
        return self._array(name, lambda: self._session.image_logits(prompt, pixels), lambda found: found.shape == shape)

    def image_embeddings_by_rule(self, pixels: np.ndarray) -> np.ndarray:
        name = self._name("image_embeddings_by_rule", _digest(pixels))
        ask = lambda: self._session.image_embeddings_by_rule(pixels)  # noqa: E731
        return self._array(name, ask, lambda found: found.ndim == 2)

    def image_logits_by_rule(self, prompt: str, pixels: np.ndarray) -> np.ndarray:
        name, shape = self._name("image_logits_by_rule", prompt, _digest(pixels)), (self._identity.vocab,)
        ask = lambda: self._session.image_logits_by_rule(prompt, pixels)  # noqa: E731
        return self._array(name, ask, lambda found: found.shape == shape)

    def choice_scores(self, questions: Sequence[Question], advance: Callable[[int], None]) -> list[list[float]]:
        """The log-probability of every choice of each question, kept for CHOICES_TOGETHER questions at a time."""
        found: list[list[float]] = []
        for start in range(0, len(questions), CHOICES_TOGETHER):
            found += self._scores_of(questions[start : start + CHOICES_TOGETHER], advance)
        return found

    def _scores_of(self, questions: Sequence[Question], advance: Callable[[int], None]) -> list[list[float]]:
        name = self._name("choices", [[list(map(list, q.tokens)), list(q.own)] for q in questions])
        sizes = [len(question.tokens) for question in questions]

        def compute() -> list[list[float]]:
            found = list[list[float]]()
            for scores in choices.scores(self._session, questions):
                found.append(scores)
                advance(1)
            return found

        return self._written(name, compute, lambda rows: _are_scores(rows, sizes))

    # ---- at the end

    def cached(self) -> Cached:
        """What was kept of all windows that were asked for."""
        positions = sum(count for count, _ in self._windows.values()) or 1
        rows = self._windows.values()
        return Cached(
            whole=all(sizes.whole for _, sizes in rows),
            bytes=sum(sizes.bytes for _, sizes in rows),
            tokens_kept=sum(count * sizes.tokens_kept for count, sizes in rows) / positions,
            tail_mass=sum(count * sizes.tail_mass for count, sizes in rows) / positions,
            tail_mass_max=max((sizes.tail_mass_max for _, sizes in rows), default=0.0),
        )

    def forget_others(self) -> None:
        """Throw away the answers that nobody asked for since the start: they belong to another text or model."""
        if self._folder is None or not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            if path not in self._used:
                path.unlink(missing_ok=True)

    # ---- files

    def _name(self, *question: object) -> str:
        return hashlib.sha256(json.dumps([FORM, self._key, *question]).encode()).hexdigest()

    def _written(self, name: str, compute: Callable[[], _Answer], fits: Callable[[object], bool]) -> _Answer:
        """Tokens, kept as JSON."""
        answer: _Answer = self._remembered(f"{name}.json", compute, _load_json, _save_json, fits)
        return answer

    def _array(self, name: str, compute: Callable[[], np.ndarray], fits: Callable[[np.ndarray], bool]) -> np.ndarray:
        return self._remembered(f"{name}.array.npy", compute, _load_array, _save_array, fits)

    def _remembered(
        self,
        name: str,
        compute: Callable[[], _Answer],
        load: Callable[[Path], _Answer],
        save: Callable[[_Answer, Path], None],
        fits: Callable[[_Answer], bool],
    ) -> _Answer:
        """What the file has, where it can be an answer to the question; else what is computed, which is kept."""
        if self._folder is None:
            if name not in self._held:
                self._held[name] = compute()
            return cast(_Answer, self._held[name])
        path = self._folder / name
        self._used.add(path)
        if path.is_file():
            with contextlib.suppress(*_BROKEN):
                found = load(path)
                if fits(found):
                    return found
        answer = compute()
        self._folder.mkdir(parents=True, exist_ok=True)
        save(answer, path)
        return answer


def _digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _are_ids(found: object, vocab: int) -> bool:
    return isinstance(found, list) and all(type(i) is int and 0 <= i < vocab for i in found)


def _are_scores(found: object, sizes: Sequence[int]) -> bool:
    """Whether these are finite scores of questions with so many choices each."""
    if not (isinstance(found, list) and len(found) == len(sizes)):
        return False
    rows = zip(found, sizes, strict=True)
    return all(
        isinstance(row, list) and len(row) == size and all(type(s) is float and math.isfinite(s) for s in row)
        for row, size in rows
    )


def _load_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _load_array(path: Path) -> np.ndarray:
    array: np.ndarray = np.load(path, allow_pickle=False)
    return array


def _save_array(array: np.ndarray, path: Path) -> None:
    with _whole(path) as part, open(part, "wb") as file:
        np.save(file, array, allow_pickle=False)


def _save_json(answer: object, path: Path) -> None:
    with _whole(path) as part:
        part.write_text(json.dumps(answer), encoding="utf-8")


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A name to write under, which becomes `path` when all is written."""
    part = path.with_name(path.name + ".part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
