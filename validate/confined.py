"""What a stranger's file makes a library do, in a process that may take only so much: chat templates, tokenizers.

A template is a program and so is a regular expression: either can go on for ever or fill the memory, and no sandbox of
Jinja's counts time or bytes. The process is a fork of this one, so that it has what was loaded here and answers as
this one would. Seconds are of its processor: a busy or sleeping machine makes nothing fail.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from operator import methodcaller
from pathlib import Path
from typing import Generic, TypeVar, cast

from validate.errors import Endless, RuntimeFailure
from validate.runtimes._watchdog import processor_seconds

SECONDS = 20.0  # for one question: a conversation takes a millisecond, a text of a megabyte a second
BYTES = 1 << 30  # more than this process has already
WAKE_SECONDS = 0.25
IDLE_LOOKS = 480  # so many looks without a tick of its processor: it waits for what never comes

T = TypeVar("T")
A = TypeVar("A")


class Confined(Generic[T]):
    """Methods of `target`, each asked of a fork of this process."""

    def __init__(self, target: T, what: str) -> None:
        """`what` is its name in messages: a file, and what of it."""
        self._target, self._what = target, what
        self._pipe: Connection | None = None
        self._child = 0
        self._inside = False
        self._words = ""  # why nothing more is asked

    def ask(self, method: Callable[..., A], *args: object) -> A:
        """`method(target, *args)`, done there; what it raises is raised here.

        Raises Endless where it takes too much, then and ever after.
        """
        if self._words:
            raise Endless(self._words)
        if self._inside or not hasattr(os, "fork"):
            return method(self._target, *args)
        self.start()
        pipe = cast(Connection, self._pipe)
        try:
            pipe.send((method.__name__, args))
            self._await(pipe)
            kind, value = pipe.recv()
        except (EOFError, OSError):
            self._end(f"{self._what} {self._death()}")
            raise Endless(self._words) from None
        if kind == "answer":
            return cast(A, value)
        raise value if isinstance(value, Exception) else RuntimeFailure(str(value))

    def _await(self, pipe: Connection) -> None:
        """Wait for the answer; ends the process that has none in time."""
        began = processor_seconds(self._child) or 0.0
        last, idle = began, 0
        while not pipe.poll(WAKE_SECONDS):
            used = processor_seconds(self._child) or last
            idle, last = (idle + 1 if used == last else 0), used
            if used - began > SECONDS or idle > IDLE_LOOKS:
                self._end(f"{self._what} took more than {SECONDS:.0f} seconds, wanted an answer at once")
                raise Endless(self._words)

    def start(self) -> None:
        """Make the process, where it is not there: it keeps what this one has in memory at that moment."""
        if self._pipe is not None or self._words or not hasattr(os, "fork"):
            return
        self._pipe, theirs = Pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: the child uses none of them
            self._child = os.fork()
        if self._child == 0:
            self._pipe.close()
            self._inside = True  # what it is asked may ask in turn
            _serve(self._target, theirs)
        theirs.close()

    def _death(self) -> str:
        """How the process ended by itself."""
        _, status = os.waitpid(self._child, 0)
        self._child = 0
        code = os.waitstatus_to_exitcode(status)
        if code == MEMORY:
            return f"took more than {BYTES >> 20} MB of memory"
        return f"was stopped by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def _end(self, words: str) -> None:
        self._words = f"{words}; do not trust it, or put another in its place"
        self.close()

    def close(self) -> None:
        """End the process."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._child:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._child, signal.SIGKILL)
                os.waitpid(self._child, 0)
            self._child = 0

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


MEMORY = 77  # exit code of a process that asked for more memory than it may


def _serve(target: object, pipe: Connection) -> None:
    """Answer until nobody asks; never returns."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other end closes the pipe
        _let_go(pipe.fileno())
        _limit_memory()
        while True:
            name, args = pipe.recv()
            _limit_seconds()
            pipe.send(_answer(target, name, args))
    except MemoryError:
        os._exit(MEMORY)
    except BaseException:
        os._exit(1)


def _let_go(kept: int) -> None:
    """Close every file but one: locks are held, and pipes do not end, as long as any process has them open."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.closerange(3, kept)
    os.closerange(kept + 1, 1 << 20 if most == resource.RLIM_INFINITY else most)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # a library that panics prints pages
        os.dup2(nothing, standard)


def _answer(target: object, name: str, args: tuple[object, ...]) -> tuple[str, object]:
    try:
        return "answer", methodcaller(name, *args)(target)
    except MemoryError:
        raise
    except BaseException as error:  # a library's panic is no Exception; what cannot be sent is sent as its words
        known = type(error).__module__.partition(".")[0] in ("builtins", "validate", "jinja2")
        return "error", error if known and isinstance(error, Exception) and _sends(error) else _words(error)


def _sends(error: Exception) -> bool:
    import pickle

    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _limit_seconds() -> None:
    """End this process some seconds after the other would: that may be gone."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    until = int(time.process_time() + SECONDS) + 10
    resource.setrlimit(resource.RLIMIT_CPU, (until if hard == resource.RLIM_INFINITY else min(until, hard), hard))


def _limit_memory() -> None:
    """So much more than there is; on a system that does not say how much that is, nothing is limited."""
    with contextlib.suppress(OSError, ValueError):
        now = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (now + BYTES, hard))
