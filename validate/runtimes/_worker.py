"""The other end of an IsolatedSession: `python -m validate.runtimes._worker MODULE FILE_DESCRIPTOR`."""

from __future__ import annotations

import importlib
import os
import select
import signal
import sys
import threading
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from validate.runtimes import RuntimeFailure, Unsupported
from validate.runtimes._isolated import receive, send
from validate.speed import Speed, peak_memory_bytes


def main(module: str, descriptor: int) -> None:
    """Answer questions until the other end closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it closes the pipe
    threading.Thread(target=_leave_with_the_asker, args=(descriptor,), daemon=True).start()
    runtime = importlib.import_module(module)
    session: Any = None
    with Connection(descriptor) as pipe:
        while True:
            try:
                method, args, options = receive(pipe)
            except EOFError:
                break
            try:
                if method == "open":
                    session, value = runtime.open(*args, **options), None
                elif (ability := getattr(session, method, None)) is None:
                    raise Unsupported(f"this runtime has no {method}")
                else:
                    value = ability(*args, **options)
                if isinstance(value, Speed):
                    value = replace(value, peak_memory_bytes=peak_memory_bytes())
                answer = ("answer", value)
            except RuntimeFailure as error:
                answer = (type(error).__name__, str(error))
            except Exception as error:  # whatever it is, the other side has to hear of it
                answer = ("RuntimeFailure", f"{type(error).__name__}: {error}")
            send(pipe, answer)
    if session is not None:
        session.close()


def _leave_with_the_asker(descriptor: int) -> None:
    """End this process as soon as the other end is closed, be it by kill -9, and whatever native code is running.

    The kernel closes it with the process that held it. Nothing is lost: a session writes no files.
    """
    poll = select.poll()
    poll.register(descriptor, 0)  # a hang-up is always told
    poll.poll()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
