"""The whole comparison: one reference, any number of candidates, the same tokens, images and clicks into all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from validate import contract, drift, memory, vision
from validate.continuation import Continuation, continued, prompt_of
from validate.drift import NotComparable
from validate.perplexity import perplexity
from validate.runtimes import NotOnThisMachine, Runtime, RuntimeFailure, Session, Unsupported, open_session

CLICK_BATCH = 20  # screenshots the reference answers at once; a candidate gets one a question, as a user would ask
MEMORY_SHARE = 0.5  # of what is free, that candidates opened together may take
LOGITS_HELD = 3  # windows of logits a candidate's process has at once: computed, handed out, copied
GREEDY_TOKENS = 64
DECODE_TOKENS = 32  # fed one at a time


@dataclass(frozen=True)
class Candidate:
    """One output to compare. `runtime` is None where no runtime for its format is known."""

    path: Path
    projector: Path | None
    runtime: Runtime | None
    size: int  # bytes on disk, the measure of its memory
    name: str = ""  # what it is called where people read; its file's name when left out
    text_only: str = ""  # why images are none of its business, where its format has no place for them


@dataclass(frozen=True)
class Questions:
    """What is put to the reference and to every candidate."""

    windows: Sequence[Sequence[int]]
    images: Sequence[tuple[str, np.ndarray]] = ()
    image_text: str = vision.PROMPT
    clicks: Sequence[vision.ClickTask] = ()
    must_see: bool = False  # images were asked for by name: an output that cannot be shown one fails


@dataclass
class Measurement:
    """What was found out about one candidate; filled while the comparison goes on, read when it is over."""

    runtime: str = ""
    parameters: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    checks: list[contract.Check] = field(default_factory=list)
    greedy: Continuation | None = None
    images: list[vision.ImageDrift] = field(default_factory=list)
    clicks: vision.ClickScore | None = None
    vision_reason: str = ""  # why there is no vision part
    failures: list[str] = field(default_factory=list)  # never a pass
    not_run: str = ""  # why it was not run; never a pass either
    lacking: bool = False  # not run because this machine lacks a device or kernels, which is nobody's failure

    @property
    def over(self) -> bool:
        """Whether what is wrong is said already, and would be said again by going on."""
        return bool(self.failures or self.not_run)


@dataclass(frozen=True)
class Settings:
    """How to go about it, not what to ask. `free_bytes` of memory: what the system says when left out."""

    threads: int | None = None
    free_bytes: int | None = None


class Watcher(Protocol):
    """Told how far the comparison is."""

    def start(self, what: str, total: int, unit: str) -> None:
        """A part begins."""

    def advance(self, amount: int) -> None:
        """So many more of the part's units are done."""


def text_windows(reference: Session, text: str, tokens: int, window: int) -> list[list[int]]:
    """The first `tokens` tokens of a text in windows that do not overlap, each of at most `window` tokens.

    Where the model puts BOS before a text, every window starts with one: that is what the model was trained to see.
    """
    identity = reference.identity()
    lead = [identity.bos] if identity.adds_bos else []
    ids = reference.tokenize(text)[:tokens]
    step = window - len(lead)
    windows = [lead + ids[i : i + step] for i in range(0, len(ids), step)]
    return [w for w in windows if len(w) >= 2]


def measure(
    reference: Any,
    candidates: Sequence[Candidate],
    questions: Questions,
    settings: Settings,
    watcher: Watcher,
) -> list[Measurement]:
    """What each candidate gives, in order. Never raises for what a candidate does.

    Memory: the reference, one window of its logits and one of a candidate's, and as many candidates at a time as fit
    into half of what is free, their own windows counted; where that is not all of them, the reference's logits are
    computed again for the rest.
    """
    results = [Measurement() for _ in candidates]
    free = memory.free_bytes() or 0 if settings.free_bytes is None else settings.free_bytes  # 0: one at a time
    comparison = _Comparison(reference, questions, settings, watcher)
    watcher.start("comparing logits", sum(map(len, questions.windows)) * len(candidates), "tok")
    window_bytes = LOGITS_HELD * 4 * max(map(len, questions.windows), default=0) * reference.identity().vocab
    for group in _groups(list(zip(candidates, results, strict=True)), free * MEMORY_SHARE, window_bytes):
        comparison.measure(group)
    return results


Pair = tuple[Candidate, Measurement]
Open = tuple[Session, Candidate, Measurement]


def _groups(pairs: Sequence[Pair], budget: float, window_bytes: int) -> Iterator[list[Pair]]:
    group: list[Pair] = []
    for pair in pairs:
        if group and sum(c.size + window_bytes for c, _ in [*group, pair]) > budget:
            yield group
            group = []
        group.append(pair)
    if group:
        yield group


def _open(
    stack: ExitStack, candidate: Candidate, result: Measurement, context: int, threads: int | None
) -> Session | None:
    runtime = candidate.runtime
    if runtime is None:
        result.not_run = f"no runtime here runs {candidate.path.name}"
        return None
    result.runtime = f"{runtime.NAME}"
    reason = runtime.available()
    if reason:
        result.not_run = reason
        return None
    result.runtime = f"{runtime.NAME} ({runtime.version()})"
    with _Noting(result, ""):
        session = open_session(runtime, candidate.path, projector=candidate.projector, context=context, threads=threads)
        stack.enter_context(session)
        result.parameters = session.identity().parameters
        return session
    return None


class _Noting:
    """Writes what goes wrong in a `with` block into the measurement and goes on after the block."""

    def __init__(self, result: Measurement, part: str) -> None:
        self._result, self._part = result, part

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, RuntimeFailure | NotComparable):
            return False
        if isinstance(error, NotOnThisMachine):
            self._result.not_run, self._result.lacking = f"built, not run: {error}", True
            return True
        self._result.failures.append(f"{self._part}: {error}" if self._part else str(error))
        return True


class _Comparison:
    """The reference and the questions; what the reference makes of images is kept for all candidates."""

    def __init__(self, reference: Any, questions: Questions, settings: Settings, watcher: Watcher) -> None:
        self.reference, self.questions = reference, questions
        self.settings, self.watcher = settings, watcher
        self.sees = reference.identity().sees

    def measure(self, group: Sequence[Pair]) -> None:
        longest = max(map(len, self.questions.windows), default=1)
        with ExitStack() as stack:
            opened = [
                (session, candidate, result)
                for candidate, result in group
                if (session := _open(stack, candidate, result, longest, self.settings.threads)) is not None
            ]
            self.measure_text(opened)
            for session, candidate, result in opened:
                with _Noting(result, "contract"):
                    result.checks = contract.check_contract(self.reference, session)
                    result.metrics |= {c.metric: c.score for c in result.checks if c.metric and c.total}
                with _Noting(result, "decoding"):
                    self.measure_decoding(session, result)
                with _Noting(result, "greedy"):
                    self.measure_greedy(session, result)
                with _Noting(result, "vision"):
                    self.measure_vision(session, candidate, result)

    def measure_text(self, opened: Sequence[Open]) -> None:
        compared: dict[int, list[drift.WindowDrift]] = {id(result): [] for _, _, result in opened}
        for window in self.questions.windows:
            alive = [(session, result) for session, _, result in opened if not result.over]
            if not alive:
                return
            reference_logits = self.reference.logits(window)
            for session, result in alive:
                with _Noting(result, "text"):
                    compared[id(result)].append(drift.compare(reference_logits, session.logits(window), window))
                self.watcher.advance(len(window))
            del reference_logits  # before the next window's are made: 311 MB for 512 x 152k
        for _, _, result in opened:
            if not result.over:
                with _Noting(result, "text"):
                    windows_compared = compared[id(result)]
                    result.metrics |= asdict(drift.summarize(windows_compared)) | asdict(perplexity(windows_compared))

    def measure_decoding(self, session: Session, result: Measurement) -> None:
        if result.over:
            return
        tokens = self.questions.windows[0][:DECODE_TOKENS]
        try:
            fed = session.decode_logits(tokens)
        except Unsupported:
            return  # a limit on it says that it was not measured
        result.metrics["decode_max_abs"] = drift.largest_difference(session.logits(tokens), fed)

    def measure_greedy(self, session: Session, result: Measurement) -> None:
        if result.over:
            return
        prompt, wanted = self.seen_greedy
        result.greedy = continued(len(prompt), wanted, session.generate(prompt, GREEDY_TOKENS))
        result.metrics["greedy_equal"] = result.greedy.share

    def measure_vision(self, session: Session, candidate: Candidate, result: Measurement) -> None:
        if not self.sees:
            result.vision_reason = vision.SEES_NOTHING
            return
        if candidate.text_only:
            result.vision_reason = candidate.text_only
            return
        if candidate.projector is None:
            result.vision_reason = "no projector was made beside this file"
            if self.questions.must_see:
                raise Unsupported("the recipe names images or clicks, but no projector was made beside this file")
            return
        if not session.identity().sees:
            raise Unsupported(f"the projector {candidate.projector.name} has no vision part")
        result.images = [vision.compare_image(image, session) for image in self.seen_images]
        result.metrics |= vision.image_metrics(result.images)
        if self.questions.clicks:
            prompts, wanted = self.seen_clicks
            got = self.click(f"clicks of {candidate.name or candidate.path.name}", session, prompts, batch=1)
            result.clicks = vision.score_clicks(self.questions.clicks, wanted, got)
            result.metrics |= vision.click_metrics(result.clicks)

    @cached_property
    def seen_greedy(self) -> tuple[list[int], list[int]]:
        """A prompt from the text and how the reference goes on."""
        prompt = prompt_of(self.questions.windows)
        return prompt, self.reference.generate(prompt, GREEDY_TOKENS)

    @cached_property
    def seen_images(self) -> list[vision.Seen]:
        questions = self.questions
        return [vision.look(self.reference, name, pixels, questions.image_text) for name, pixels in questions.images]

    @cached_property
    def seen_clicks(self) -> tuple[list[str], list[vision.Click]]:
        """Rendered prompts and the reference's answers."""
        prompts = [self.reference.image_prompt(task.instruction, task.tools) for task in self.questions.clicks]
        return prompts, self.click("clicks of the source", self.reference, prompts, CLICK_BATCH)

    def click(self, what: str, session: Session, prompts: Sequence[str], batch: int) -> list[vision.Click]:
        tasks, answers = self.questions.clicks, list[vision.Click]()
        self.watcher.start(what, len(tasks), "click")
        for i in range(0, len(tasks), batch):
            images = [_pixels(task) for task in tasks[i : i + batch]]
            answers += vision.do_clicks(session, prompts[i : i + batch], images)
            self.watcher.advance(len(images))
        return answers


def _pixels(task: vision.ClickTask) -> np.ndarray:
    try:
        return vision.read_image(task.image)
    except ValueError as error:
        raise NotComparable(str(error)) from error
