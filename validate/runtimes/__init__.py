"""One file per runtime; a session on any of them answers the same few questions.

A runtime is a module of this folder (a name that starts with an underscore is not one) with

    NAME: str                  as people write it: "llama.cpp"
    FORMATS: tuple[str, ...]   the artifact formats whose runtime it is: ("gguf",)
    ISOLATED: bool             native code that may abort: run it in a process of its own
    available() -> str | None  why it cannot run here and what to install, None when it is installed
    version() -> str           "xllamacpp 2026.10.11549"
    open(model, *, projector, context, threads) -> Session

and may have

    ALSO_RUNS: tuple[str, ...] formats of another runtime that it runs too, where it is asked for by name
    lacks() -> str | None      what this machine lacks for an installed runtime: "no CUDA device"
    IMAGE_BATCH: int           images to answer at once, where one at a time takes minutes for the same answers

Call `open_session`, not `open`: it puts a process around native code, so that a file that makes the runtime abort
fails its own row of the report and nothing else.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

import numpy as np

if TYPE_CHECKING:
    from validate.speed import Speed

IMAGE_MARK = "<__image__>"
"""Stands in a rendered prompt where a session puts the image and whatever its runtime writes around one."""

Message = Mapping[str, Any]


class RuntimeFailure(Exception):
    """A runtime could not load or run a model; the message is its own words, shortened."""


class Killed(Exception):
    """Somebody else ended the runtime (out of memory, most often): it says nothing about the model."""


class Unsupported(RuntimeFailure):
    """This runtime, or this session, has no such ability; not the model's fault."""


class NotOnThisMachine(Unsupported):
    """The runtime is installed, and this machine lacks the device or the kernels to run the model on."""


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
    sees: bool = False  # takes images
    own_templates: bool = True  # renders chat templates with an engine of its own, not with transformers
    parameters: int = 0  # weights in the file, as the runtime counts them; 0 where it does not
    pixel_limits: tuple[int, int] | None = None  # of a scaled image; None where no file says


class Session(Protocol):
    """A loaded model. Methods that a runtime has no way to offer raise Unsupported."""

    def identity(self) -> Identity: ...

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]: ...

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""

    def pieces(self) -> list[str]:
        """The text of every id of the vocabulary, as its file spells it; empty where an id is unused."""

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """float32 (token, vocab), every position, from an empty cache."""

    def decode_logits(self, tokens: Sequence[int]) -> np.ndarray:
        """As `logits`, with the tokens fed one at a time through the cache."""

    def generate(self, tokens: Sequence[int], count: int) -> list[int]:
        """At most `count` tokens that follow, greedily; an end-of-generation token is the last one."""

    def render(self, messages: Sequence[Message], tools: Sequence[Message] | None, generation_prompt: bool) -> str:
        """The conversation as the runtime's own template engine writes it."""

    def image_tokens(self, width: int, height: int) -> int:
        """How many image tokens an image of that size becomes; nothing is run for it."""

    def image_embeddings(self, pixels: np.ndarray) -> np.ndarray:
        """float32 (image token, hidden) of an RGB image, uint8 (height, width, 3)."""

    def image_logits(self, prompt: str, pixels: np.ndarray) -> np.ndarray:
        """float32 (vocab,) after a rendered prompt with one IMAGE_MARK."""

    def image_generate(self, prompts: Sequence[str], images: Sequence[np.ndarray], count: int) -> list[list[int]]:
        """As `generate`, after each prompt with one IMAGE_MARK."""

    def speed(self, tokens: Sequence[int]) -> Speed:
        """How fast it reads and writes, at most a window; asked first, so that the peak of memory is that of this."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Runtime(Protocol):
    """The shape of a runtime module."""

    __name__: str
    NAME: str
    FORMATS: tuple[str, ...]
    ISOLATED: bool

    def available(self) -> str | None: ...
    def version(self) -> str: ...
    def open(
        self, model: Path, *, projector: Path | None = None, context: int = 512, threads: int | None = None
    ) -> Session: ...


def names() -> list[str]:
    """Every runtime there is a file for, in order."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load(name: str) -> Runtime:
    """The runtime module called `name`; importing it is cheap, it imports its library when asked to open."""
    return cast(Runtime, importlib.import_module(f"{__name__}.{name}"))


def for_format(format_: str) -> Runtime | None:
    """The runtime that runs artifacts of this format, or None."""
    return next((runtime for runtime in map(load, names()) if format_ in runtime.FORMATS), None)


def runs_too(runtime: Runtime) -> tuple[str, ...]:
    """The formats that `runtime` runs where it is asked for by name, beside those it is the runtime of."""
    return tuple(getattr(runtime, "ALSO_RUNS", ()))


def lacks(runtime: Runtime) -> str | None:
    """What this machine lacks to run anything on an installed runtime, or None."""
    asked = getattr(runtime, "lacks", None)
    return None if asked is None else asked()


def open_session(
    runtime: Runtime, model: Path, *, projector: Path | None = None, context: int = 512, threads: int | None = None
) -> Session:
    """A session on `model`; use it in a `with` block. Raises RuntimeFailure when the model does not load."""
    reason = runtime.available()
    if reason:
        raise Unsupported(reason)
    if lack := lacks(runtime):
        raise NotOnThisMachine(lack)
    if not runtime.ISOLATED:
        return runtime.open(model, projector=projector, context=context, threads=threads)
    from validate.runtimes._isolated import IsolatedSession

    return IsolatedSession(runtime, model, projector=projector, context=context, threads=threads)
