"""An output folder is held by one run at a time; the lock goes with its processes, however they end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from convert import child
from convert.errors import BusyError, Problem
from convert.files import STATE_FOLDER

LEAVE_SECONDS = 20.0  # what the steps of a killed run get to notice that it is gone
WAKE_SECONDS = 0.1


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold the output folder. Raises BusyError that names who holds it.

    Steps that run in processes of their own hold the lock too, so that none of a killed run still writes where the next
    one builds; those of a run that is gone are waited for.
    """
    path = folder / STATE_FOLDER / "lock"
    with open(path, "a+", encoding="utf-8") as file:
        _take(file, folder)
        file.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {since} ({' '.join(sys.argv)})")
        file.flush()
        with child.inherit(file.fileno()):
            try:
                yield
            finally:
                file.truncate(0)


def _take(file: IO[str], folder: Path) -> None:
    until = time.monotonic() + LEAVE_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip()
            if time.monotonic() < until and not _lives(holder):
                time.sleep(WAKE_SECONDS)
                continue
            remedy = "wait for it, stop it, or give another --out"
            raise BusyError(Problem(str(folder), f"is held by {holder or 'another run'}", "", remedy)) from error


def _lives(holder: str) -> bool:
    """Whether the process that wrote itself into the lock is there; so it counts where that cannot be told."""
    words = holder.split()
    if len(words) < 4 or not words[1].isdigit() or words[3] != socket.gethostname():
        return bool(holder)  # nobody's name yet: it is about to be written
    try:
        os.kill(int(words[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
