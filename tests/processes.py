"""How tests start processes: with the signals a terminal gives, and never waited for without a limit.

Under `nohup`, and in a job that a script put into the background, SIGHUP or SIGINT are ignored, and a process inherits
that from the one that starts it. A handler it does not inherit: exec makes the default of it again.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

LIMIT = 600.0  # seconds; many times what any of them takes
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@contextlib.contextmanager
def default_signals() -> Iterator[None]:
    """Processes that are started meanwhile have the default for every signal; this one ignores what it ignored."""
    if threading.current_thread() is not threading.main_thread():  # whose handlers these are not to change
        yield
        return
    ignored = [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN]

    def ignore(number: int, frame: FrameType | None) -> None:
        del number, frame

    for number in ignored:
        signal.signal(number, ignore)
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)


def run(
    command: Sequence[str], *, check: bool, timeout: float = LIMIT, **options: Any
) -> subprocess.CompletedProcess[Any]:
    """As subprocess.run."""
    with default_signals():
        return subprocess.run(command, check=check, timeout=timeout, **options)


@contextlib.contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """As subprocess.Popen; the process is killed where it still runs at the end."""
    with default_signals():
        process = subprocess.Popen(command, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait(LIMIT)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()
