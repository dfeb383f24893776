"""Native code in a process of its own: it may abort, it may print, and it ends when we do. A leaf.

    python -m convert.child MODULE [ARGUMENT …]      runs a module until it is done or its standard input closes

The standard input is a lifeline: the kernel closes it with the process that holds the other end, be it by kill -9.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LAST_LINES = 8  # of what it said, to quote when it fails
DISK = re.compile(rf"OSError: \[Errno ({errno.ENOSPC}|{errno.EDQUOT}|{errno.EFBIG})\]")  # a disk that takes no more
LINE_END = re.compile(rb"[\r\n]+")  # progress bars end their lines with \r


@dataclass(frozen=True)
class Ended:
    """How a process ended, and the last it said."""

    code: int
    last: tuple[str, ...]

    @property
    def how(self) -> str:
        """In words: "ended with exit code 1", "was stopped by SIGKILL"."""
        if self.code < 0:
            return f"was stopped by {signal.Signals(-self.code).name}"
        return f"ended with exit code {self.code}"


def run(
    module: str,
    arguments: Sequence[str],
    hear: Callable[[str], None],
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Ended:
    """Run a module in a new Python; `hear` gets every line it prints, to whichever of the two outputs.

    Any exception that comes here meanwhile, Ctrl-C too, ends the process before it goes on. Raises OSError where the
    process ended because a disk is full.
    """
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    process = subprocess.Popen(
        [sys.executable, "-m", "convert.child", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **(environment or {})},
        cwd=folder,
        start_new_session=True,  # Ctrl-C is ours to handle
    )
    last: deque[str] = deque(maxlen=LAST_LINES)
    try:
        for line in _lines(process):
            last.append(line)
            hear(line)
        ended = Ended(process.wait(), tuple(last))
        if ended.code and (full := DISK.search("\n".join(last))):
            raise OSError(int(full[1]), os.strerror(int(full[1])), str(folder or ""))  # as if we had written it
        return ended
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """What the process prints, line by line; of a progress bar every state is one."""
    assert process.stdout is not None
    rest = b""
    while chunk := os.read(process.stdout.fileno(), 1 << 16):
        *lines, rest = LINE_END.split(rest + chunk)
        yield from (text for line in lines if (text := line.decode(errors="replace").strip()))
    if rest.strip():
        yield rest.decode(errors="replace").strip()


def _leave_with_the_asker() -> None:
    """End this process as soon as nobody holds the other end of its standard input, whatever native code is running."""
    with contextlib.suppress(OSError):
        while os.read(0, 1024):
            pass
    os._exit(1)


def main(module: str, arguments: Sequence[str]) -> None:
    """Be the process: run `module` as `python -m` would."""
    threading.Thread(target=_leave_with_the_asker, daemon=True).start()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
