"""How fast a session reads and writes, and how much memory its process takes: an indication, measured alike for all.

Prefill is `logits` of a window, from an empty cache, so it includes the head's work at every position and the copy of
its result. Decode is `decode_logits`: tokens fed one at a time, so that a model that ends its text early is not a fast
one. Both are measured where the session lives: nothing of it is the way between two processes. What was read for other
measures counts (Paces), so that a model that reads slowly need not read the same text again to say so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from validate.errors import NotOnThisMachine, Unsupported

PREFILL_SECONDS = 10.0  # for all passes; where a runtime is slower they are made shorter
DECODE_SECONDS = 5.0
DECODE_TOKENS = 32
WARM_DECODE = 2
WARM_TOKENS = 16  # read first: pages come in, buffers are made, and the rate says how much there is time for
PASSES = 2
STEADY_SECONDS = 0.25  # passes go on until so much was measured: of a few milliseconds the best of two is chance
_STATUS = "/proc/self/status"


@dataclass(frozen=True)
class Speed:
    """Rates are None where a runtime cannot be asked. `peak_memory_bytes` is None where the process holds more."""

    prefill_tokens_per_second: float | None
    decode_tokens_per_second: float | None
    load_seconds: float
    peak_memory_bytes: int | None = None  # resident, highest since the process began; mapped files count
    threads: int | None = None


class Measurable(Protocol):
    """What is asked of a session."""

    load_seconds: float
    threads: int | None

    def logits(self, tokens: Sequence[int]) -> np.ndarray: ...
    def decode_logits(self, tokens: Sequence[int]) -> np.ndarray: ...


class Paces:
    """What a session took for the passes that were asked of it, by method."""

    def __init__(self) -> None:
        self._passes: dict[str, list[tuple[int, float]]] = {}  # tokens, seconds

    @contextmanager
    def counting(self, method: str, args: Sequence[object]) -> Iterator[None]:
        """Counts the block as a pass over the tokens that `method` was given, where it is one that reads or feeds."""
        start = time.perf_counter()
        yield
        if method in ("logits", "decode_logits") and args and isinstance(args[0], Sequence):
            self._passes.setdefault(method, []).append((len(args[0]), time.perf_counter() - start))

    def rate(self, method: str) -> float | None:
        """Tokens a second of the fastest of the long passes; None where they were too short to say."""
        passes = self._passes.get(method, [])
        longest = max((count for count, _ in passes), default=0)
        long = [(count, seconds) for count, seconds in passes if 2 * count > longest]
        steady = bool(long) and sum(seconds for _, seconds in long) >= STEADY_SECONDS
        return max(count / seconds for count, seconds in long) if steady else None


def measure_speed(
    session: Measurable, tokens: Sequence[int], decode: int = DECODE_TOKENS, paces: Paces | None = None
) -> Speed:
    """The best pass over `tokens`, and over the first `decode` of them fed one at a time; `paces` may know them.

    Takes at most about half a minute: where a runtime is slow the passes are made shorter. Load time and threads are
    what the session says of itself. Raises ValueError where there are no tokens.
    """
    if not tokens:
        raise ValueError("there are no tokens to measure speed with")
    known = paces or Paces()
    return Speed(
        prefill_tokens_per_second=known.rate("logits") or _rate(session.logits, tokens, WARM_TOKENS, PREFILL_SECONDS),
        decode_tokens_per_second=known.rate("decode_logits")
        or _rate(session.decode_logits, tokens[:decode], WARM_DECODE, DECODE_SECONDS),
        load_seconds=session.load_seconds,
        threads=session.threads,
    )


def peak_memory_bytes() -> int | None:
    """The most memory this process had at once, resident; None where the system does not say (only Linux does)."""
    try:
        with open(_STATUS, encoding="ascii", errors="replace") as file:
            line = next(line for line in file if line.startswith("VmHWM:"))  # in kB, proc(5)
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, IndexError, ValueError):
        return None


def _rate(read: Callable[[Sequence[int]], object], tokens: Sequence[int], warm: int, seconds: float) -> float | None:
    """Tokens a second of the fastest pass, each over as many of the tokens as there is time for."""
    try:
        _seconds(read, tokens[:warm])
        count, taken = len(tokens[:warm]), _seconds(read, tokens[:warm])
    except NotOnThisMachine:
        raise
    except Unsupported:
        return None
    part = tokens[: max(count, int(seconds / PASSES * count / taken))]
    passes = [_seconds(read, part) for _ in range(PASSES)]
    while sum(passes) < STEADY_SECONDS:
        passes.append(_seconds(read, part))
    return len(part) / min(passes)


def _seconds(read: Callable[[Sequence[int]], object], tokens: Sequence[int]) -> float:
    start = time.perf_counter()
    read(tokens)
    return max(time.perf_counter() - start, 1e-6)
