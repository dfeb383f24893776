"""The whole comparison: one reference, any number of candidates, the same tokens, images and clicks into all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import numpy as np

from validate import behaviour, compact, continuation, contract, drift, memory, slices, statistics, toolcalls, vision
from validate.drift import NotComparable
from validate.measurement import Candidate, Measurement, Questions, Settings, Watcher, WindowSums
from validate.runtimes import NotOnThisMachine, RuntimeFailure, Session, Unsupported, open_session
from validate.worst import Worst

CLICK_BATCH = 20  # screenshots the reference answers at once
MEMORY_SHARE = 0.5  # of what is free, that candidates opened together may take
LOGITS_HELD = 3  # windows of logits a candidate's process has at once: computed, handed out, copied
GREEDY_TOKENS = 64
DECODE_TOKENS = 32  # fed one at a time
STOPS = 12  # places where the reference would stop, at which every candidate is asked to


def measure(
    reference: Any,
    candidates: Sequence[Candidate],
    questions: Questions,
    settings: Settings,
    watcher: Watcher,
) -> list[Measurement]:
    """What each candidate gives, in order. Never raises for what a candidate does.

    Memory: the reference, one window of its logits and one of a candidate's, and as many candidates at a time as fit
    into half of what is free, their own windows counted; where that is not all of them, the rest is compared with what
    was kept of the reference's logits on disk.
    """
    results = [Measurement() for _ in candidates]
    free = memory.free_bytes() or 0 if settings.free_bytes is None else settings.free_bytes  # 0: one at a time
    free = max(0, free - getattr(reference, "bytes_to_load", 0))  # the source may be loaded in the middle of it
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
    """The reference and the questions; what the reference makes of them is kept for all candidates."""

    def __init__(self, reference: Any, questions: Questions, settings: Settings, watcher: Watcher) -> None:
        self.reference, self.questions = reference, questions
        self.settings, self.watcher = settings, watcher
        self.sets = questions.sets or ["text"] * len(questions.windows)
        self.identity = reference.identity()
        self.stops: dict[int, behaviour.Stop] = {}  # by window: one is enough of each

    def measure(self, group: Sequence[Pair]) -> None:
        longest = max(map(len, self.questions.windows), default=1)
        with ExitStack() as stack:
            opened = [
                (session, candidate, result)
                for candidate, result in group
                if (session := _open(stack, candidate, result, longest, self.settings.threads)) is not None
            ]
            for session, _, result in opened:  # before anything else makes its process larger
                with _Noting(result, "speed"):
                    result.speed = session.speed(max(self.questions.windows, key=len))
            self.measure_text(opened)
            for session, candidate, result in opened:
                self.measure_behaviour(session, candidate, result)

    def measure_behaviour(self, session: Session, candidate: Candidate, result: Measurement) -> None:
        with _Noting(result, "contract"):
            result.checks = contract.check_contract(self.reference, session)
        parts = {
            "decoding": self.measure_decoding,
            "greedy": self.measure_greedy,
            "stops": self.measure_stops,
            "tool calls": self.measure_tool_calls,
        }
        for part, measure_part in parts.items():
            with _Noting(result, part):
                measure_part(session, result)
        with _Noting(result, "vision"):
            self.measure_vision(session, candidate, result)
        result.metrics |= {c.metric: c.score for c in result.checks if c.metric and c.total}

    # ---- text

    def measure_text(self, opened: Sequence[Open]) -> None:
        texts = {id(result): _Text(self.questions.windows, self.sets) for _, _, result in opened}
        for number, window in enumerate(self.questions.windows):
            alive = [(session, result) for session, _, result in opened if not result.over]
            if not alive:
                return
            kept = self.reference.kept(window)
            self.look_for_stop(number, window, kept)
            for session, result in alive:
                with _Noting(result, "text"):
                    texts[id(result)].compare(number, kept, session.logits(window))
                self.watcher.advance(len(window))
            del kept  # before the next window's are made: 311 MB for 512 x 152k
        pieces = self.reference.pieces()
        for _, _, result in opened:
            if not result.over:
                with _Noting(result, "text"):
                    texts[id(result)].tell(result, self.reference, pieces)

    def look_for_stop(self, number: int, window: Sequence[int], kept: compact.Kept) -> None:
        """The first place of the window behind which the reference would end its text."""
        if len(self.stops) < STOPS and number not in self.stops:
            place = next((i for i in range(kept.count) if kept.best[i] in self.identity.end_of_generation), None)
            if place is not None:
                self.stops[number] = behaviour.Stop(list(window[: place + 1]), int(kept.best[place]))

    def measure_decoding(self, session: Session, result: Measurement) -> None:
        if result.over:
            return
        tokens = self.questions.windows[0][:DECODE_TOKENS]
        try:
            fed = session.decode_logits(tokens)
        except Unsupported:
            return  # a limit on it says that it was not measured
        at_once = session.logits(tokens)
        result.metrics["decode_max_abs"] = drift.largest_difference(at_once, fed)
        result.metrics["decode_kl"] = float(drift.kl(at_once, fed).mean())

    # ---- what it writes

    def measure_greedy(self, session: Session, result: Measurement) -> None:
        if result.over:
            return
        prompts, wanted = self.seen_greedy
        got = [session.generate(prompt, GREEDY_TOKENS) for prompt in prompts]
        result.greedy = continuation.continued(prompts, wanted, got)
        result.metrics |= result.greedy.metrics

    def measure_stops(self, session: Session, result: Measurement) -> None:
        if not result.over and self.stops:
            result.checks.append(behaviour.stop_check(list(self.stops.values()), session))

    def measure_tool_calls(self, session: Session, result: Measurement) -> None:
        """Of texts; those of clicks are counted where the clicks are made."""
        prompts = self.questions.tool_prompts
        if prompts and not result.over:
            self.count_calls(result, [p.tools for p in prompts], self.seen_calls, toolcalls.answers(session, prompts))

    def count_calls(self, result: Measurement, tools: Sequence[Any], wanted: Sequence[str], got: Sequence[str]) -> None:
        result.tool_calls = toolcalls.score(tools, wanted, got) + result.tool_calls
        result.metrics |= result.tool_calls.metrics

    # ---- images

    def measure_vision(self, session: Session, candidate: Candidate, result: Measurement) -> None:
        if not self.identity.sees:
            result.vision_reason = vision.SEES_NOTHING
            return
        if candidate.text_only:
            result.vision_reason = candidate.text_only
            return
        if candidate.projector is None or self.blind:
            result.vision_reason = self.blind if candidate.projector else "no projector was made beside this file"
            if self.questions.must_see:
                raise Unsupported(f"the recipe names images or clicks, but {result.vision_reason}")
            return
        if not session.identity().sees:
            raise Unsupported(f"the projector {candidate.projector.name} has no vision part")
        result.checks += behaviour.image_checks(self.reference, session)
        result.images = [vision.compare_image(image, session) for image in self.seen_images]
        result.metrics |= vision.image_metrics(result.images)
        if self.questions.clicks:
            self.measure_clicks(session, candidate, result)

    def measure_clicks(self, session: Session, candidate: Candidate, result: Measurement) -> None:
        tasks = self.questions.clicks
        prompts, wanted = self.seen_clicks
        # One a question, as a user would ask, but where that takes minutes for the same answers.
        batch = getattr(candidate.runtime, "IMAGE_BATCH", 1)
        got = self.click(f"clicks of {candidate.name or candidate.path.name}", session, prompts, batch)
        result.clicks = score = vision.score_clicks(tasks, wanted, got)
        hits, reference_hits = (np.asarray(h, float) for h in (score.hits, score.hits_reference))
        drops = statistics.shares(reference_hits - hits, lowest=-1.0)
        drawn = {"click_rate": statistics.shares(hits), "click_drop": drops}
        result.add(vision.click_metrics(score), drawn)
        self.count_calls(result, [t.tools for t in tasks], [c.answer for c in wanted], [c.answer for c in got])

    # ---- the reference's answers, asked once

    @cached_property
    def seen_greedy(self) -> tuple[list[list[int]], list[list[int]]]:
        """Prompts from the texts and how the reference goes on."""
        prompts = continuation.beginnings(self.questions.windows, self.sets)
        return prompts, [self.reference.generate(prompt, GREEDY_TOKENS) for prompt in prompts]

    @cached_property
    def seen_calls(self) -> list[str]:
        return toolcalls.answers(self.reference, self.questions.tool_prompts)

    @cached_property
    def blind(self) -> str:
        """Why the source was shown no image; empty where it was. It is no output's failure."""
        if not self.questions.blind:
            try:
                _ = self.seen_images
            except RuntimeFailure as error:
                return f"the source cannot be shown an image: {error}"
        return self.questions.blind

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


class _Text:
    """What one candidate's logits of all windows come to."""

    def __init__(self, windows: Sequence[Sequence[int]], sets: Sequence[str]) -> None:
        self._windows, self._sets = windows, sets
        self._drifts: list[drift.WindowDrift] = []
        self._worst = Worst()

    def compare(self, number: int, kept: compact.Kept, logits_tv: np.ndarray) -> None:
        """Take in the logits of the next window."""
        tokens, name = self._windows[number], self._sets[number]
        self._drifts.append(drift.compare(kept, logits_tv, tokens))
        self._worst.look(name, number, tokens, kept, logits_tv, self._drifts[-1])

    def tell(self, result: Measurement, reference: Any, pieces: Sequence[str]) -> None:
        """Write down what was found."""
        summary = drift.summarize(self._drifts)
        result.metrics |= summary.metrics
        result.intervals |= summary.intervals
        result.draws |= summary.draws
        result.quantiles = summary.quantiles
        result.slices = slices.slices(self._drifts, self._windows, self._sets, pieces.__getitem__)
        result.worst = self._worst.rows(reference.detokenize, pieces.__getitem__)
        result.windows = [_sums(window) for window in self._drifts]


def _sums(window: drift.WindowDrift) -> WindowSums:
    return WindowSums(
        positions=len(window.kl),
        scored=len(window.nll_candidate),
        kl=float(window.kl.sum()),
        top1=int(window.same_top.sum()),
        nll=float(window.nll_candidate.sum()),
        nll_reference=float(window.nll_reference.sum()),
    )


def _pixels(task: vision.ClickTask) -> np.ndarray:
    try:
        return vision.read_image(task.image)
    except ValueError as error:
        raise NotComparable(str(error)) from error
