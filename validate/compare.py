"""The whole comparison: one reference, any number of candidates, the same tokens, images and clicks into all.

What is measured is in measures/, one file each; here is the order in which it is, and what becomes of what goes wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from threading import Lock

from validate import measures, memory
from validate.compressed_logits import CompressedLogits
from validate.errors import NotOnThisMachine, RuntimeFailure
from validate.logits import NotComparable
from validate.measurement import Candidate, Measurement, Progress, Questions, Settings
from validate.measures.base import (
    Comparison,
    FileMeasure,
    Measure,
    RunningCandidate,
    SessionMeasure,
    Window,
    WindowMeasure,
)
from validate.reference import Reference
from validate.runtimes import Session, open_session

OPENED_AT_ONCE = 2
MEMORY_SHARE = 0.5  # of what is free, that candidates opened together may take
LOGITS_HELD = 3  # windows of logits a candidate's process has at once: computed, handed out, copied


def measure(
    reference: Reference,
    candidates: Sequence[Candidate],
    questions: Questions,
    settings: Settings,
    progress: Progress,
) -> list[Measurement]:
    """What each candidate gives, in order. Never raises for what a candidate does.

    Memory: the reference, one window of its logits and one of a candidate's, and as many candidates at a time as fit
    into half of what is free, their own windows counted; where that is not all of them, the rest is compared with what
    was kept of the reference's logits on disk.
    """
    results = [Measurement() for _ in candidates]
    pairs = list(zip(candidates, results, strict=True))
    free = memory.free_bytes() or 0 if settings.free_bytes is None else settings.free_bytes  # 0: one at a time
    free = max(0, free - reference.bytes_to_load)  # the source may be loaded in the middle of it
    comparison = Comparison(reference, questions, progress)
    every = [kind(comparison) for kind in measures.ordered()]
    progress.start("comparing logits", sum(map(len, questions.windows)) * len(candidates), "tok")
    window_bytes = LOGITS_HELD * 4 * max(map(len, questions.windows), default=0) * reference.identity().vocab
    for group in _groups(pairs, free * MEMORY_SHARE, window_bytes):
        _measure_group(comparison, every, group, settings.threads)
    for candidate, result in pairs:
        _measure_files(every, candidate, result)
    return results


Pair = tuple[Candidate, Measurement]


def _groups(pairs: Sequence[Pair], budget: float, window_bytes: int) -> Iterator[list[Pair]]:
    group: list[Pair] = []
    for pair in pairs:
        if group and sum(c.size + window_bytes for c, _ in [*group, pair]) > budget:
            yield group
            group = []
        group.append(pair)
    if group:
        yield group


def _measure_group(
    comparison: Comparison, every: Sequence[Measure], group: Sequence[Pair], threads: int | None
) -> None:
    """What needs a session, of candidates that are open at the same time."""
    longest = max(map(len, comparison.questions.windows), default=1)
    asking = [m for m in every if isinstance(m, SessionMeasure)]
    with ExitStack() as stack:
        running = _open_all(stack, group, longest, threads)
        for fresh in (m for m in asking if m.FRESH):
            for one in running:
                _run_measure(fresh, one)
        _measure_windows(comparison, asking, running)
        rest = [m for m in asking if not m.FRESH and not isinstance(m, WindowMeasure)]
        for one in running:
            for alone in rest:
                _run_measure(alone, one)
            one.result.metrics |= {c.metric: c.score for c in one.result.checks if c.metric and c.total}


def _measure_windows(
    comparison: Comparison, asking: Sequence[SessionMeasure], running: Sequence[RunningCandidate]
) -> None:
    """Every window once through the reference and through every candidate that is still in the race."""
    comparing = [m for m in asking if isinstance(m, WindowMeasure)]
    questions = comparison.questions
    for number, (name, tokens) in enumerate(zip(questions.sets_of_windows, questions.windows, strict=True)):
        alive = [one for one in running if not one.result.is_settled]
        if not alive:
            return
        window, compressed = Window(number, name, tokens), comparison.reference.compressed_logits(tokens)
        for measuring in asking:
            measuring.on_reference_window(window, compressed)
        for one in alive:
            _compare_window(comparing, one, window, compressed)
            comparison.progress.advance(len(tokens))
        del compressed  # before the next window's are made: 311 MB for 512 x 152k
    for one in running:
        for measuring in comparing:
            _run_measure(measuring, one)


def _compare_window(
    comparing: Sequence[WindowMeasure], running: RunningCandidate, window: Window, reference: CompressedLogits
) -> None:
    """A candidate's logits of one window, into everything that compares them; they are gone when this returns."""
    with recording_failures(running.result, "text"):
        logits_tv = running.session.logits(window.tokens)
        for measuring in comparing:
            with recording_failures(running.result, measuring.PART):
                measuring.compare(running, window, reference, logits_tv)


def _measure_files(every: Sequence[Measure], candidate: Candidate, result: Measurement) -> None:
    for measuring in every:
        if isinstance(measuring, FileMeasure):
            with recording_failures(result, measuring.PART):
                measuring.measure(candidate, result)


def _run_measure(measuring: SessionMeasure, running: RunningCandidate) -> None:
    """One measure of one candidate, if it is to be made; what goes wrong is written down."""
    if running.result.is_settled and not measuring.DESPITE_FAILURES:
        return
    if not running.done.issuperset(measuring.AFTER):
        return
    with recording_failures(running.result, measuring.PART):
        if not measuring.is_asked(running):
            return
        lacking = next((ability for ability in measuring.NEEDS if not running.session.can(ability)), None)
        if lacking is not None:
            measuring.without(running, lacking)
            return
        measuring.measure(running)
        running.done.add(type(measuring))


def _open_all(stack: ExitStack, group: Sequence[Pair], context: int, threads: int | None) -> list[RunningCandidate]:
    """The candidates that run, in order; `stack` closes them. Loading a library keeps one core busy: two at a time."""
    with ThreadPoolExecutor(OPENED_AT_ONCE) as pool:

        def open_one(pair: Pair) -> RunningCandidate | None:
            session = _open(*pair, context, threads)
            if session is None:
                return None
            with lock:
                stack.enter_context(session)  # at once: whatever happens to the others, it is closed
            return RunningCandidate(pair[0], session, pair[1])

        lock = Lock()
        try:
            return [one for one in pool.map(open_one, group) if one is not None]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _open(candidate: Candidate, result: Measurement, context: int, threads: int | None) -> Session | None:
    runtime = candidate.runtime
    if runtime is None:
        wanted = f"; its format wants the runtime '{candidate.wanted}'" if candidate.wanted else ""
        result.not_run = f"no runtime here runs {candidate.path.name}{wanted}"
        return None
    result.runtime = f"{runtime.NAME}"
    reason = runtime.available()
    if reason:
        result.not_run = reason
        return None
    result.runtime = f"{runtime.NAME} ({runtime.version()})"
    with recording_failures(result, ""):
        session = open_session(runtime, candidate.path, projector=candidate.projector, context=context, threads=threads)
        try:
            result.parameters = session.identity().parameters
        except BaseException:
            session.close()
            raise
        return session
    return None


@contextmanager
def recording_failures(result: Measurement, part: str) -> Iterator[None]:
    """Write what goes wrong in the block into the measurement, and go on after the block."""
    try:
        yield
    except NotOnThisMachine as error:
        result.not_run, result.lacking = f"built, not run: {error}", True
    except (RuntimeFailure, NotComparable) as error:
        result.failures.append(f"{part}: {error}" if part else str(error))
