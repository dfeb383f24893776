"""The whole comparison: one reference, any number of candidates, the same tokens, images and clicks into all.

    the reference reads every window and image once; what it says is kept      (prepare)
    each candidate is opened, measured and closed before the next is opened    (measure)
    where texts are read in steps: both read on, for those not yet decided     (read_on)
    the reference reads what they wrote, in passes over all of it at once      (settle)

So there is one model in memory at a time, however many there are to compare. What is measured is in measures/, one file
each; here is the order in which it is, and what becomes of what goes wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from validate import measures
from validate.compressed_logits import CompressedLogits
from validate.errors import NotOnThisMachine, RuntimeFailure
from validate.logits import NotComparable
from validate.measured import Measured
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

STAYS_BYTES = 700_000_000  # a reference this small is not worth loading twice


def measure(
    reference: Reference,
    candidates: Sequence[Candidate],
    questions: Questions,
    settings: Settings,
    progress: Progress,
) -> list[Measurement]:
    """What each candidate gives, in order. Never raises for what a candidate does.

    Memory: the reference's weights or one candidate's, and a window of both sides' logits. What was measured of a
    candidate is kept where `settings` says, and not measured again.
    """
    comparison = Comparison(reference, questions, progress, candidates)
    gives = reference.identity().gives
    every = [kind(comparison) for kind in measures.ordered() if gives in kind.OF]
    asking = [m for m in every if isinstance(m, SessionMeasure)]
    kept = Measured(settings.kept, questions)
    results = [_unable(c) or kept.load(c) for c in candidates]
    if any(found is None for found in results):
        _prepare(comparison, asking)
    waiting: list[RunningCandidate] = []
    for number, candidate in enumerate(candidates):
        if results[number] is None:
            found, running = _measure_one(comparison, asking, candidate, settings.threads)
            results[number] = found
            if running is not None and running.wants_more:
                waiting.append(running)
            else:
                kept.save(candidate, found)
    for running in _read_on(comparison, asking, waiting, settings.threads):
        kept.save(running.candidate, running.result)
    known = [found or Measurement() for found in results]
    _settle(comparison, asking, candidates, known)
    progress.start("the files' own words and tensors", len(candidates), "file")
    for candidate, result in zip(candidates, known, strict=True):
        _measure_files(every, candidate, result)
        progress.advance(1)
        result.metrics |= {c.metric: c.score for c in result.checks if c.metric and c.total}
    kept.forget_others()
    return known


# ---- the reference


def _prepare(comparison: Comparison, asking: Sequence[SessionMeasure]) -> None:
    """All that needs the reference's weights and is known beforehand; they are given back where they are large."""
    first = slice(0, comparison.questions.ends_of_steps[0])
    reads = _reference_reads(comparison, first) if any(isinstance(m, WindowMeasure) for m in asking) else ()
    for window, compressed in reads:
        for measuring in asking:
            measuring.on_reference_window(window, compressed)
        del compressed  # before the next window's are made: 311 MB for 512 x 152k
    for measuring in asking:
        measuring.prepare()
    comparison.reference.give_back(STAYS_BYTES)


def _reference_reads(comparison: Comparison, step: slice) -> Iterator[tuple[Window, CompressedLogits]]:
    """The windows of a step, each with what the reference says of it, which is kept."""
    windows = _windows(comparison.questions, step)
    comparison.progress.start("the source reads the text", sum(len(w.tokens) for w in windows), "tok")
    every = comparison.reference.compressed_logits_of([w.tokens for w in windows], comparison.progress.advance)
    yield from zip(windows, every, strict=True)


def _settle(
    comparison: Comparison,
    asking: Sequence[SessionMeasure],
    candidates: Sequence[Candidate],
    results: Sequence[Measurement],
) -> None:
    """What candidates wrote, put before the reference; nothing is asked where nobody wrote anything."""
    rows = list(zip(candidates, results, strict=True))
    for measuring in asking:
        wrote = [(c, r) for c, r in rows if measuring.WRITTEN in r.written]
        if wrote:
            with recording_failures([r for _, r in wrote], measuring.PART):
                measuring.settle(wrote)


# ---- one candidate


def _unable(candidate: Candidate) -> Measurement | None:
    """The row of what cannot be run at all; None for what can be tried."""
    runtime = candidate.runtime
    if runtime is None:
        wanted = f"; its format wants the runtime '{candidate.wanted}'" if candidate.wanted else ""
        return Measurement(not_run=f"no runtime here runs {candidate.path.name}{wanted}")
    reason = runtime.available()
    return Measurement(runtime=runtime.NAME, not_run=reason) if reason else None


def _measure_one(
    comparison: Comparison, asking: Sequence[SessionMeasure], candidate: Candidate, threads: int | None
) -> tuple[Measurement, RunningCandidate | None]:
    """What needs a session, of a candidate that is opened for it and closed when this returns; of texts, one step."""
    result = Measurement()
    with _opened(comparison, candidate, result, threads) as session:
        if session is None:
            return result, None
        running = RunningCandidate(candidate, session, result)
        _measure_windows(comparison, asking, running, slice(0, comparison.questions.ends_of_steps[0]))
        for alone in (m for m in asking if not isinstance(m, WindowMeasure)):
            _run_measure(alone, running)
    return result, running


def _read_on(
    comparison: Comparison, asking: Sequence[SessionMeasure], waiting: Sequence[RunningCandidate], threads: int | None
) -> Iterator[RunningCandidate]:
    """Each candidate when it has read enough: step by step, the reference first, then those that are not decided."""
    ends = comparison.questions.ends_of_steps
    for step in map(slice, ends, ends[1:]):
        if not waiting:
            return
        for _ in _reference_reads(comparison, step):
            pass  # it is kept
        comparison.reference.give_back(STAYS_BYTES)
        for running in waiting:
            running.wants_more = False
            with _opened(comparison, running.candidate, running.result, threads) as session:
                if session is not None:
                    running.session = session
                    _measure_windows(comparison, asking, running, step)
            if not running.wants_more:
                yield running
        waiting = [running for running in waiting if running.wants_more]


def _measure_windows(
    comparison: Comparison, asking: Sequence[SessionMeasure], running: RunningCandidate, step: slice
) -> None:
    """The windows of a step, as long as nothing is wrong with the candidate; it may want more when they are read."""
    comparing = [m for m in asking if isinstance(m, WindowMeasure)]
    if not comparing:
        return
    progress, windows = comparison.progress, _windows(comparison.questions, step)
    progress.start(f"{running.candidate.label}: logits", sum(len(w.tokens) for w in windows), "tok")
    answers = running.session.logits_of([w.tokens for w in windows])
    for window in windows:
        if running.result.is_settled:
            return
        with recording_failures([running.result], "text"):
            reference = comparison.reference.compressed_logits(window.tokens)
            logits_tv = next(answers)
            for measuring in comparing:
                with recording_failures([running.result], measuring.PART):
                    measuring.compare(running, window, reference, logits_tv)
            del reference, logits_tv
        progress.advance(len(window.tokens))
    last = step.stop == comparison.questions.ends_of_steps[-1]
    running.wants_more = not (last or running.result.is_settled or all(m.has_enough(running) for m in comparing))
    if not running.wants_more:
        for measuring in comparing:
            _run_measure(measuring, running)


def _windows(questions: Questions, step: slice) -> list[Window]:
    """The windows of one step of reading."""
    named = zip(questions.sets_of_windows, questions.windows, strict=True)
    return [Window(number, name, tokens) for number, (name, tokens) in enumerate(named)][step]


@contextmanager
def _opened(
    comparison: Comparison, candidate: Candidate, result: Measurement, threads: int | None
) -> Iterator[Session | None]:
    """The candidate's session, open in the block; None where there is none, and why is written down."""
    comparison.progress.start(f"{candidate.label}: opening", 0, "tok")
    context = max(map(len, comparison.questions.windows), default=1)
    session = _open(candidate, result, context, threads)
    with session or nullcontext():
        yield session


def _measure_files(every: Sequence[Measure], candidate: Candidate, result: Measurement) -> None:
    for measuring in every:
        if isinstance(measuring, FileMeasure):
            with recording_failures([result], measuring.PART):
                measuring.measure(candidate, result)


def _run_measure(measuring: SessionMeasure, running: RunningCandidate) -> None:
    """One measure of one candidate, if it is to be made; what goes wrong is written down."""
    if running.result.is_settled and not measuring.DESPITE_FAILURES:
        return
    if not running.done.issuperset(measuring.AFTER):
        return
    with recording_failures([running.result], measuring.PART):
        if not measuring.is_asked(running):
            return
        lacking = next((ability for ability in measuring.NEEDS if not running.session.can(ability)), None)
        if lacking is not None:
            measuring.without(running, lacking)
            return
        measuring.measure(running)
        running.done.add(type(measuring))


def _open(candidate: Candidate, result: Measurement, context: int, threads: int | None) -> Session | None:
    runtime = candidate.runtime
    assert runtime is not None
    result.runtime = f"{runtime.NAME} ({runtime.version()})"
    with recording_failures([result], ""):
        session = open_session(runtime, candidate.path, projector=candidate.projector, context=context, threads=threads)
        try:
            result.parameters = session.identity().parameters
        except BaseException:
            session.close()
            raise
        return session
    return None


@contextmanager
def recording_failures(results: Sequence[Measurement], part: str) -> Iterator[None]:
    """Write what goes wrong in the block into the measurements, and go on after the block."""
    try:
        yield
    except NotOnThisMachine as error:
        for result in results:
            result.not_run, result.lacking = f"built, not run: {error}", True
    except (RuntimeFailure, NotComparable) as error:
        for result in results:
            result.failures.append(f"{part}: {error}" if part else str(error))
