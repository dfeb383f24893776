"""Native code in a process of its own: it may abort, it may print, and it ends when we do. A leaf.

    main(DESCRIPTORS, MODULE, ARGUMENT …) runs a module there until it is done or its standard input closes

The standard input is a lifeline: the kernel closes it with the process that holds the other end, be it by kill -9.
The first of DESCRIPTORS is a pipe for what the module reports (`convert.messages`), the others are only kept open; both
outputs are left to whoever prints.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import runpy
import selectors
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from convert import messages
from convert.json_types import JsonDict
from convert.progress import Progress

# The package imports this module before it could be run as one.
START = "import sys; from convert import child; child.main(*sys.argv[1:])"
LAST_LINES = 8  # of what it printed, to quote when it fails
DISK = re.compile(rf"OSError: \[Errno ({errno.ENOSPC}|{errno.EDQUOT}|{errno.EFBIG})\]")  # a disk that takes no more
CHUNK_BYTES = 1 << 16  # all that a pipe holds unless somebody made it larger
PRINTED_LINE_BYTES = 4096  # what a library prints without a line end may be without an end
MESSAGE_BYTES = 1 << 26
WAKE_SECONDS = 0.2  # between looks whether the process still is there
GRACE_SECONDS = 1.0  # for what the process itself started and left behind


class Stopped(Exception):
    """The process was ended because its caller was told to stop."""


@dataclass(frozen=True)
class Ended:
    """How a process ended, what it reported, and the last that was printed in it."""

    code: int
    last: tuple[str, ...]
    result: JsonDict | None = None
    failure: str = ""  # the exception that ended it, in a line

    @property
    def how(self) -> str:
        """In words: "ended with exit code 1", "was stopped by SIGKILL"."""
        if self.code < 0:
            return f"was stopped by {signal.Signals(-self.code).name}"
        return f"ended with exit code {self.code}"


def run(  # noqa: PLR0913 - all but the first two by name
    command: Sequence[str],
    progress: Progress | None = None,
    *,
    on_line: Callable[[str], object] | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    stop: threading.Event | None = None,
) -> Ended:
    """How a module that was run in a new Python ended, and its result.

    `command` is the module's name and its arguments. `progress` gets what the module reports; `on_line` gets every
    line that is printed there, to whichever of the two outputs. Whatever exception comes here meanwhile, Ctrl-C too,
    ends the process before it goes on; so does `stop`, which raises Stopped. Raises OSError where the process ended
    because a disk is full.
    """
    said = messages.Child(progress)
    last: deque[str] = deque(maxlen=LAST_LINES)

    def printed(line: str) -> None:
        last.append(line)
        if on_line:
            on_line(line)

    with _started(command, environment or {}, folder) as (process, pipe):
        assert process.stdout is not None
        outputs = (messages.LineReader(PRINTED_LINE_BYTES), printed)
        _follow(
            process, {process.stdout.fileno(): outputs, pipe: (messages.LineReader(MESSAGE_BYTES), said.take)}, stop
        )
        ended = Ended(process.wait(), tuple(last), said.result, said.failure)
    if ended.code and (full := DISK.search("\n".join([*last, said.failure]))):
        raise OSError(int(full[1]), os.strerror(int(full[1])), str(folder or ""))  # as if we had written it
    return ended


@contextlib.contextmanager
def _started(
    command: Sequence[str], environment: Mapping[str, str], folder: Path | None
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A new Python that runs the module, and the pipe of its messages; nothing of it is left afterwards."""
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    with contextlib.ExitStack() as stack:
        pipe, theirs = os.pipe()
        stack.callback(os.close, pipe)
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", START, ",".join(map(str, (theirs, *_inherited))), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs, *_inherited),
                env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **environment},
                cwd=folder,
                start_new_session=True,  # Ctrl-C is ours to handle
            )
        finally:
            os.close(theirs)
        stack.callback(_end, process)
        yield process, pipe


_inherited: set[int] = set()


@contextlib.contextmanager
def inherit(descriptor: int) -> Iterator[None]:
    """Every process started meanwhile, and those it starts, keep this file open: a lock lives until all are gone."""
    _inherited.add(descriptor)
    try:
        yield
    finally:
        _inherited.discard(descriptor)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process where it still is there, and what it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()


def _follow(
    process: subprocess.Popen[bytes],
    pipes: Mapping[int, tuple[messages.LineReader, Callable[[str], None]]],
    stop: threading.Event | None = None,
) -> None:
    """Hand on every line that comes through the pipes, until they are closed or the process has ended.

    What it started may hold them open beyond its end; that gets GRACE_SECONDS for its last words.
    """
    deadline: float | None = None
    with selectors.DefaultSelector() as selector:
        for descriptor, taker in pipes.items():
            selector.register(descriptor, selectors.EVENT_READ, taker)
        while selector.get_map():
            if stop is not None and stop.is_set():
                raise Stopped
            if deadline is None and process.poll() is not None:
                deadline = time.monotonic() + GRACE_SECONDS
            for key, _ in selector.select(WAKE_SECONDS):
                chunk = os.read(key.fd, CHUNK_BYTES)
                reader, take = key.data
                for line in reader.feed(chunk):
                    take(line)
                if not chunk:
                    selector.unregister(key.fd)
            if deadline is not None and time.monotonic() > deadline:  # what it wrote itself was read in this round
                break
    for reader, take in pipes.values():
        for line in reader.feed(b""):
            take(line)


def _leave_with_the_asker() -> None:
    """End this process as soon as nobody holds the other end of its standard input, whatever native code is running."""
    with contextlib.suppress(OSError):
        while os.read(0, 1024):
            pass
    os._exit(1)


def main(descriptors: str, module: str, *arguments: str) -> None:
    """Be the process: run `module` as `python -m` would, and report the exception that ends it."""
    pipe, *kept = map(int, descriptors.split(","))
    messages.connect_descriptor(pipe)
    for descriptor in kept:
        os.set_inheritable(descriptor, False)  # only by pass_fds, to processes of ours
    _inherited.update(kept)
    threading.Thread(target=_leave_with_the_asker, daemon=True).start()
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except Exception as error:
        messages.parent().failure(" ".join("".join(traceback.format_exception_only(error)).split()))
        raise
