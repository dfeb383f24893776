"""What is asked of every output, and what was found out about one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from validate import contract, statistics, toolcalls, vision
from validate.choices import Question
from validate.continuation import Greedy
from validate.embeddings import TEXT, EmbeddingDrift
from validate.enough import Reading
from validate.flips import Flips
from validate.jinja_js import JinjaJs
from validate.kv_cache import CacheDrift, CacheQuestion
from validate.runtimes.base import Runtime
from validate.slices import Slice
from validate.speed import Speed
from validate.worst import Row


@dataclass(frozen=True)
class TensorError:
    """A tensor of a candidate's file against the source's."""

    name: str
    type: str  # Q4_K
    values: int  # that were compared
    error: float  # root mean square error over the source's root mean square; infinite where that is 0
    note: str = ""  # what is wrong with it, where it lost more than its type rounds


@dataclass(frozen=True)
class Candidate:
    """One output to compare. `runtime` is None where no runtime for its format is known."""

    path: Path
    projector: Path | None
    runtime: Runtime | None
    size: int  # bytes on disk, the measure of its memory
    name: str = ""  # what it is called where people read; its file's name when left out
    text_only: str = ""  # why images are none of its business, where its format has no place for them
    tensor_errors: Callable[[], Sequence[TensorError]] | None = (
        None  # of a file whose tensors can be compared one by one
    )
    file_checks: Callable[[], Sequence[contract.Check]] | None = None  # of what the files state, that nobody runs
    wanted: str = ""  # what the runtime would be called, where there is none
    key: str = ""  # of all its measurement depends on but the questions; empty: nothing of it is kept
    limits: Mapping[str, float] = field(default_factory=dict)  # by metric; where texts are read in steps, until decided
    compares_caches: bool = True  # where the questions name types of the cache: whether they are for this output

    @property
    def label(self) -> str:
        """What it is called where people read."""
        return self.name or self.path.name


@dataclass(frozen=True)
class Questions:
    """What is put to the reference and to every candidate. `sets` names the input set of each window."""

    windows: Sequence[Sequence[int]]
    sets: Sequence[str] = ()
    images: Sequence[tuple[str, np.ndarray]] = ()
    image_text: str = vision.PROMPT
    clicks: Sequence[vision.ClickTask] = ()
    no_images_reason: str = ""  # why the reference can be shown no image, where it cannot
    images_required: bool = False  # images were asked for by name: an output that cannot be shown one fails
    tool_prompts: Sequence[toolcalls.Prompt] = ()  # answered with a tool call, if all is well
    choices: Sequence[Question] = ()  # multiple-choice items
    jinja_js: JinjaJs | None = None  # renders the templates of graphs once more
    kv_cache: CacheQuestion | None = None  # types of the key-value cache, where they are to be compared
    steps: Sequence[int] = ()  # rising numbers of windows, after which it is asked whether more has to be read

    @property
    def ends_of_steps(self) -> Sequence[int]:
        """The numbers of windows after each step of reading; there is one step where there are no others."""
        return self.steps or [len(self.windows)]

    @property
    def sets_of_windows(self) -> Sequence[str]:
        """The input set of each window, whether or not they were named."""
        return self.sets or ["text"] * len(self.windows)


@dataclass(frozen=True)
class WindowSums:
    """Of one window, what two reports of the same text are compared by."""

    positions: int
    scored: int  # positions whose next token lies in the window
    kl: float
    top1: int
    nll: float
    nll_reference: float


@dataclass
class Measurement:
    """What was found out about one candidate; filled while the comparison goes on, read when it is over.

    Plain data throughout: measured.py keeps it as JSON, and the draws beside it.
    """

    __pydantic_config__: ClassVar = {"arbitrary_types_allowed": True}  # arrays of draws

    runtime: str = ""
    parameters: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    draws: dict[str, np.ndarray] = field(default_factory=dict)  # of a metric, over resampled texts
    quantiles: Sequence[tuple[float, float]] = ()  # share of positions, the KL they have at most
    slices: Sequence[Slice] = ()
    worst: Sequence[Row] = ()
    windows: Sequence[WindowSums] = ()
    reading: Reading | None = None  # of the texts, where they were read in steps
    embeddings: EmbeddingDrift | None = None  # of a model that gives no text
    checks: list[contract.Check] = field(default_factory=list)
    greedy: Greedy | None = None
    tool_calls: toolcalls.ToolCalls | None = None
    choices: Flips | None = None
    kv_cache: CacheDrift | None = None
    images: list[vision.ImageDrift] = field(default_factory=list)
    clicks: vision.ClickScore | None = None
    vision_reason: str = ""  # why there is no vision part
    left_out: tuple[str, ...] = ()  # metrics that its runtime is not asked for, whatever the file
    speed: Speed | None = None
    written: dict[str, list[list[int]]] = field(default_factory=dict)  # by part, what it wrote after each prompt
    answers: dict[str, list[str]] = field(default_factory=dict)  # by part, the same as text
    tensors: Sequence[TensorError] = ()
    failures: list[str] = field(default_factory=list)  # never a pass
    not_run: str = ""  # why it was not run; never a pass either
    lacking: bool = False  # not run because this machine lacks a device or kernels, which is nobody's failure

    @property
    def gives(self) -> str:
        """What the model gives, as far as it was measured: TEXT where nothing says otherwise."""
        return self.embeddings.gives if self.embeddings else TEXT

    @property
    def is_settled(self) -> bool:
        """Whether what is wrong is said already, and would be said again by going on."""
        return bool(self.failures or self.not_run)

    def count_calls(self, calls: toolcalls.ToolCalls) -> None:
        """Tool calls, beside those that were counted before."""
        self.tool_calls = calls + self.tool_calls
        self.metrics |= self.tool_calls.metrics

    def add(self, metrics: Mapping[str, float], draws: Mapping[str, np.ndarray]) -> None:
        """Metrics, those that were resampled with their intervals."""
        self.metrics |= metrics
        self.draws |= draws
        self.intervals |= {name: statistics.interval(drawn) for name, drawn in draws.items()}


@dataclass(frozen=True)
class Settings:
    """How to go about it, not what to ask. `kept` is the folder of what was measured before, None to keep nothing."""

    threads: int | None = None
    kept: Path | None = None


class Progress(Protocol):
    """Where the comparison reports how far it is."""

    def start(self, what: str, total: int, unit: str) -> None:
        """A part begins."""

    def advance(self, amount: int) -> None:
        """So many more of the part's units are done."""
