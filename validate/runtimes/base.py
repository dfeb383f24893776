"""What a runtime is, what a session on it answers, and what a reference can do beside.

A runtime of another package is a module with a subclass of Runtime, an instance of it called RUNTIME, and an entry
point of the group `convert.runtimes` that leads there; validate/runtimes/__init__.py finds both kinds.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self, TypeAlias

import numpy as np

from validate.errors import Unsupported
from validate.json_types import Message
from validate.kv_cache import CacheSize, CacheTypes
from validate.speed import Speed, measure_speed

IMAGE_MARK = "<__image__>"
"""Stands in a rendered prompt where a session puts the image and whatever its runtime writes around one."""


@dataclass(frozen=True)
class Identity:
    """What a session takes the model's vocabulary and special tokens to be; -1 where there is no such token."""

    vocab: int
    bos: int = -1
    eos: int = -1
    eot: int = -1
    pad: int = -1
    end_of_generation: frozenset[int] = frozenset()
    adds_bos: bool = False
    adds_eos: bool = False
    templates: Mapping[str, str] = field(default_factory=dict)  # "default" and, where there are, named ones
    image_ids: Mapping[str, int] = field(default_factory=dict)  # {"image_token_id": 151655}
    added: Mapping[str, bool] = field(default_factory=dict)  # text of an added token -> whether it is a special one
    has_vision: bool = False  # takes images
    own_templates: bool = True  # renders chat templates with an engine of its own, not with transformers
    parameters: int = 0  # weights in the file, as the runtime counts them; 0 where it does not
    pixel_limits: tuple[int, int] | None = None  # of a scaled image; None where no file says
    gives: str = "text"  # what the model is asked for: text; or embeddings or scores, of an encoder (embeddings.py)


Setting: TypeAlias = bool | int | float | str | tuple[int | float | str, ...]


@dataclass(frozen=True)
class ModelSettings:
    """How a session would use the model: a setting, by transformers' name for it -> its value. Units as transformers'.

    `where` is what holds them, in a word: "GGUF".
    """

    where: str = ""
    values: Mapping[str, Setting] = field(default_factory=dict)
    defaults: Mapping[str, Setting] = field(default_factory=dict)  # the runtime's own, where the file says nothing
    no_place: Mapping[str, str] = field(default_factory=dict)  # what the format cannot hold -> what to do instead
    elsewhere: frozenset[str] = frozenset()  # held in another form, or compared by another check


class Ability(StrEnum):
    """What not every session can do; the value is the method that raises Unsupported where it cannot."""

    DECODE = "decode_logits"
    GENERATE = "generate"
    RENDER = "render"
    IMAGES = "image_logits"
    CACHE_TYPES = "open_cache"
    EMBED = "embed"


class Session(ABC):
    """A loaded model. Methods that a runtime has no way to offer raise Unsupported, as those below do."""

    load_seconds: float = 0.0
    threads: int | None = None

    @abstractmethod
    def identity(self) -> Identity:
        """Vocabulary, special tokens, templates, and whether it takes images."""

    @abstractmethod
    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """Token ids of a text."""

    @abstractmethod
    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""

    @abstractmethod
    def pieces(self) -> list[str]:
        """The text of every id of the vocabulary, as its file spells it; empty where an id is unused."""

    @abstractmethod
    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """float32 (token, vocab), every position, from an empty cache."""

    def logits_of(self, windows: Sequence[Sequence[int]]) -> Iterator[np.ndarray]:
        """The `logits` of one window after the other, each to be used before the next is asked for.

        A session that computes elsewhere works on the next window while the caller looks at this one. What a window
        raises is raised where it is asked for, and ends the iteration.
        """
        for tokens in windows:
            yield self.logits(tokens)

    # ---- what a runtime may not offer

    def can(self, ability: Ability) -> bool:
        """Whether this session has an ability."""
        match ability:
            case Ability.DECODE:
                return type(self).decode_logits is not Session.decode_logits
            case Ability.GENERATE:
                return type(self).generate is not Session.generate
            case Ability.RENDER:
                return type(self).render is not Session.render
            case Ability.IMAGES:
                return self.identity().has_vision
            case Ability.CACHE_TYPES:
                return type(self).open_cache is not Session.open_cache
            case Ability.EMBED:
                return type(self).embed is not Session.embed

    def decode_logits(self, tokens: Sequence[int]) -> np.ndarray:
        """As `logits`, with the tokens fed one at a time through the cache."""
        raise _unsupported("decode_logits")

    def generate(self, tokens: Sequence[int], count: int) -> list[int]:
        """At most `count` tokens that follow, greedily; an end-of-generation token is the last one."""
        raise _unsupported("generate")

    def generate_all(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        """As `generate`, after each prompt; a session that can writes all of them at once, in less time."""
        return [self.generate(prompt, count) for prompt in prompts]

    def render(self, messages: Sequence[Message], tools: Sequence[Message] | None, generation_prompt: bool) -> str:
        """The conversation as the runtime's own template engine writes it."""
        raise _unsupported("render")

    def settings(self) -> ModelSettings:
        """How the runtime would sample, how far it reads and how it turns positions, by what the files say."""
        raise _unsupported("settings")

    def image_tokens(self, width: int, height: int) -> int:
        """How many image tokens an image of that size becomes; nothing is run for it."""
        raise _unsupported("image_tokens")

    def image_embeddings(self, pixels: np.ndarray) -> np.ndarray:
        """float32 (image token, hidden) of an RGB image, uint8 (height, width, 3)."""
        raise _unsupported("image_embeddings")

    def image_logits(self, prompt: str, pixels: np.ndarray) -> np.ndarray:
        """float32 (vocab,) after a rendered prompt with one IMAGE_MARK."""
        raise _unsupported("image_logits")

    def image_generate(self, prompts: Sequence[str], images: Sequence[np.ndarray], count: int) -> list[list[int]]:
        """As `generate`, after each prompt with one IMAGE_MARK."""
        raise _unsupported("image_generate")

    def cache_size(self, types: CacheTypes, tokens: int) -> CacheSize:
        """What a context with a cache of these types for so many tokens would take, as the runtime says."""
        raise _unsupported("cache_size")

    def open_cache(self, types: CacheTypes, tokens: int) -> None:
        """An empty cache of these types with room for so many tokens, beside the session's own and until the next."""
        raise _unsupported("open_cache")

    def read_cached(self, tokens: Sequence[int], wanted: Sequence[int]) -> np.ndarray:
        """Read on into the cache that was opened last: float32 (wanted, vocab), of those places in `tokens`, rising."""
        raise _unsupported("read_cached")

    def embed(self, tokens: Sequence[int]) -> np.ndarray:
        """float32 (width,) of a text, pooled as its files say, not normalized; of a classifier its scores."""
        raise _unsupported("embed")

    # ---- what follows

    def speed(self, tokens: Sequence[int]) -> Speed:
        """How fast it reads and writes, at most a window; asked behind these two, before what takes more memory."""
        return measure_speed(self, tokens)

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Counts the block as load time."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.load_seconds += time.perf_counter() - start

    def close(self) -> None:  # noqa: B027 - not every session holds something
        """Give back what the session holds; nothing, where it says nothing else."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _unsupported(method: str) -> Unsupported:
    return Unsupported(f"this runtime has no {method}")


class ReferenceSession(Session):
    """A session on the source: what outputs are compared with. Those of images are asked only where it has vision."""

    @property
    def bytes_to_load(self) -> int:
        """Memory that the weights will take once something asks for them; none when they are loaded."""
        return 0

    @abstractmethod
    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] | None,
        generation_prompt: bool,
        templates: Mapping[str, str] | None = None,
    ) -> str:
        """The rendered conversation; with `templates`, those instead of the source's own."""

    def tokenize_by_file(self, text: str) -> list[int] | None:
        """Ids, special tokens read and added, as the library that the tokenizer's file is made for gives them.

        None where there is no such file, or no library for it: `tokenize` is all there is to compare with.
        """
        return None

    def read_windows(self, windows: Sequence[Sequence[int]], advance: Callable[[int], None]) -> Iterator[np.ndarray]:
        """As `logits_of`; `advance` is told of tokens as they are read, before or when a window's logits are there."""
        for tokens, logits_tv in zip(windows, self.logits_of(windows), strict=True):
            advance(len(tokens))
            yield logits_tv

    @property
    def bytes_held(self) -> int:
        """Memory that `give_back` frees."""
        return 0

    def give_back(self) -> None:
        """Free the weights; who asks for what needs them loads them again."""

    def choices(self, prompts: Sequence[Sequence[int]], drafts: Sequence[Sequence[int]]) -> list[list[int]]:
        """The likeliest token behind each prompt and behind each token of the draft that follows it, in one pass."""
        raise _unsupported("choices")

    def image_choices(
        self, prompts: Sequence[str], images: Sequence[np.ndarray], drafts: Sequence[Sequence[int]]
    ) -> list[list[int]]:
        """As `choices`, after each prompt with one IMAGE_MARK."""
        raise _unsupported("image_choices")

    @property
    def image_unit(self) -> int:
        """Pixels of the side of what becomes one image token."""
        raise _unsupported("image_unit")

    # ---- what llama.cpp does with images by rules of its own, which no file changes

    def image_rules(self, width: int, height: int) -> Sequence[str]:
        """What it does otherwise with an image of that size, a sentence each, what comes of the size last."""
        return ()

    def image_tokens_by_rule(self, width: int, height: int) -> int | None:
        """The image tokens of a size that it cuts otherwise, 0 where it refuses it; None where it does the same."""
        return None

    def framed(self, pixels: np.ndarray) -> np.ndarray:
        """The image, uint8 (height, width, 3), in a shape that both take as it is."""
        return pixels

    def image_embeddings_by_rule(self, pixels: np.ndarray) -> np.ndarray:
        """As `image_embeddings`, an image's tokens in the order in which it computes them."""
        return self.image_embeddings(pixels)

    def image_logits_by_rule(self, prompt: str, pixels: np.ndarray) -> np.ndarray:
        """As `image_logits`, an image's tokens in the order in which it computes them."""
        return self.image_logits(prompt, pixels)

    # ---- prompts with images

    def image_prompt(self, text: str, tools: Sequence[Message] | None = None) -> str:
        """A user's turn of one image and `text`, rendered, with IMAGE_MARK where the image goes."""
        raise _unsupported("image_prompt")

    def mark_images(self, prompt: str) -> str:
        """A rendered prompt with IMAGE_MARK in the place of each image and of what runtimes write around one."""
        raise _unsupported("mark_images")

    def processed_size(self, pixels: np.ndarray) -> tuple[int, int]:
        """(width, height) the source's processor gives the model; the image's own when nothing is resized."""
        raise _unsupported("processed_size")


class Runtime(ABC):
    """A library that runs models. It holds nothing: an isolated session makes another of its class elsewhere."""

    NAME: ClassVar[str]
    """As people write it: "llama.cpp"."""
    DISTRIBUTIONS: ClassVar[tuple[str, ...]] = ()
    """Whose versions decide what it measures: ("xllamacpp",)."""
    FORMATS: ClassVar[tuple[str, ...]] = ()
    """The formats whose runtime it is: ("gguf",)."""
    ALSO_RUNS: ClassVar[tuple[str, ...]] = ()
    """Formats of another runtime that it runs too, where it is asked for by name."""
    ISOLATED: ClassVar[bool] = True
    """Native code that may abort: run it in a process of its own."""
    NOT_ASKED: ClassVar[Mapping[Ability, str]] = {}
    """Abilities whose lack, or answers, say nothing of a file, each with why: a library's own limit or mistake."""
    IMAGE_BATCH: ClassVar[int] = 1
    """Images to answer at once, where one at a time takes minutes for the same answers."""

    def available(self) -> str | None:
        """Why it cannot run here and what to install, None when it is installed."""
        return None

    def lacks(self) -> str | None:
        """What this machine lacks for the installed runtime to run anything ("no CUDA device"), or None."""
        return None

    @abstractmethod
    def version(self) -> str:
        """What runs, for the report: "xllamacpp 2026.10.11549"."""

    def build(self) -> str:
        """What decides what it measures beside the versions of its distributions; empty where nothing does."""
        return ""

    @abstractmethod
    def open(
        self, model: Path, *, projector: Path | None = None, context: int = 512, threads: int | None = None
    ) -> Session:
        """A session on `model`. `context` is the longest window of tokens it will be asked for."""
