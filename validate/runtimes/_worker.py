"""The other end of an IsolatedSession: `python -m validate.runtimes._worker MODULE:CLASS FILE_DESCRIPTOR`."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from operator import methodcaller
from typing import TypeAlias, cast

from validate import plugins
from validate.errors import RuntimeFailure
from validate.runtimes._pipe import receive, send
from validate.runtimes.base import Runtime, Session
from validate.speed import Paces, Speed, measure_speed, peak_memory_bytes

Question: TypeAlias = tuple[str, Sequence[object], Mapping[str, object]]  # a method of Session, and what it is given


def main(reference: str, descriptor: int) -> None:
    """Answer questions until the other end closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it closes the pipe
    threading.Thread(target=_exit_with_parent, args=(descriptor,), daemon=True).start()
    runtime = cast(type[Runtime], plugins.load(reference))()
    session: Session | None = None
    paces = Paces()
    with Connection(descriptor) as pipe:
        while True:
            try:
                method, args, options = cast(Question, receive(pipe))
            except EOFError:
                break
            answer: tuple[str, object]
            try:
                if session is None:  # the first question is always "open"
                    session = methodcaller(method, *args, **options)(runtime)
                    answer = ("answer", None)
                elif method == "speed":
                    answer = ("answer", _speed(session, cast(Sequence[int], args[0]), paces))
                else:
                    with paces.counting(method, args):
                        answer = ("answer", methodcaller(method, *args, **options)(session))
            except RuntimeFailure as error:
                answer = (type(error).__name__, str(error))
            except Exception as error:  # whatever it is, the other side has to know
                answer = ("RuntimeFailure", f"{type(error).__name__}: {error}")
            send(pipe, answer)
    if session is not None:
        session.close()


def _speed(session: Session, tokens: Sequence[int], paces: Paces) -> Speed:
    """How fast the session is, with the memory of this process, which holds this model alone."""
    return replace(measure_speed(session, tokens, paces=paces), peak_memory_bytes=peak_memory_bytes())


def _exit_with_parent(descriptor: int) -> None:
    """End this process as soon as the other end is closed, be it by kill -9, and whatever native code is running.

    The kernel closes it with the process that held it. Nothing is lost: a session writes no files.
    """
    poll = select.poll()
    poll.register(descriptor, 0)  # a hang-up is always reported
    poll.poll()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
