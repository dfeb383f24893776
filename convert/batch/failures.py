"""What a failure is: whether trying again may help, and when. Leaf of the batch.

network   a server was busy (429, 5xx) or out of reach          again after a while
memory    the system or a library had none left                 again, with nothing beside it
killed    the process was killed from outside (SIGKILL)         as memory: most likely that is what it was
disk      it was full                                           as soon as there is room
busy      another run holds the folder                          again after a while
crash     native code ended the process                         once more, in a new process
broken    anything else: it would fail again                    never
"""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from convert.errors import BusyError, ConvertError, PlanError

Kind = Literal["network", "memory", "killed", "disk", "busy", "crash", "broken"]

FULL = (errno.ENOSPC, errno.EDQUOT)
UNREACHED = (errno.ECONNREFUSED, errno.ECONNRESET, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT, errno.EPIPE)
BUSY_CODES = (408, 425, 429, 500, 502, 503, 504)
HTTP_LIBRARIES = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "huggingface_hub", "http")
OUT_OF_REACH = (
    "Timeout",
    "ConnectError",
    "ConnectionError",
    "RemoteProtocolError",
    "ReadError",
    "IncompleteRead",
    "WriteError",
)
SAID: tuple[tuple[str, Kind], ...] = (  # by stages that keep no cause: what a server did in as many tries as they have
    ("a server within reach", "network"),
    ("stopped by SIGKILL", "killed"),
    ("stopped by SIGSEGV", "crash"),
    ("stopped by SIGABRT", "crash"),
    ("stopped by SIGBUS", "crash"),
    ("short of memory", "memory"),
    ("DefaultCPUAllocator: can't allocate memory", "memory"),
    ("out of memory", "memory"),
)
FIRST_SECONDS, MOST_SECONDS = 5.0, 300.0
CRASHES = 2  # in as many processes: then it is the model


@dataclass(frozen=True)
class Failure:
    """Why a model failed, in lines, and what kind of failure that is."""

    kind: Kind
    problems: tuple[str, ...]
    step: str = ""
    wait: float = 0.0  # seconds that a server asked for

    def again(self, attempt: int, retries: int) -> bool:
        """Whether to try once more after the attempt of this number, the first being 1."""
        most = {"broken": 0, "crash": CRASHES - 1, "killed": min(1, retries), "memory": min(1, retries)}
        return self.kind == "disk" or attempt <= most.get(self.kind, retries)

    @property
    def alone(self) -> bool:
        """Whether the next attempt should have the machine for itself."""
        return self.kind in ("memory", "killed")

    def pause(self, attempt: int) -> float:
        """Seconds until then: twice as long each time, and not all at once."""
        if self.kind not in ("network", "busy", "disk"):
            return 0.0
        waits: float = FIRST_SECONDS * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
        return max(self.wait, min(MOST_SECONDS, waits))


def failure_of(error: BaseException, step: str = "") -> Failure:
    """What kind of failure an error is, by what it was raised from."""
    problems = (
        tuple(map(str, error.problems)) if isinstance(error, ConvertError) else (f"{type(error).__name__}: {error}",)
    )
    kind, wait = _kind(error)
    return Failure(kind, problems, step, wait)


def _kind(error: BaseException) -> tuple[Kind, float]:
    for cause in _causes(error):
        if isinstance(cause, MemoryError):
            return "memory", 0.0
        if isinstance(cause, BusyError):
            return "busy", 0.0
        if isinstance(cause, OSError) and cause.errno in FULL:
            return "disk", 0.0
        if (found := _of_network(cause)) is not None:
            return found
    if isinstance(error, PlanError):
        return "broken", 0.0  # it says what a step would take, and nothing was started
    text = str(error)
    return next((kind for words, kind in SAID if words in text), "broken"), 0.0


def _of_network(cause: BaseException) -> tuple[Kind, float] | None:
    """Whether a library of HTTP raised it for what may pass, and how long the server asks to wait."""
    if isinstance(cause, ConnectionError | TimeoutError) or (isinstance(cause, OSError) and cause.errno in UNREACHED):
        return "network", 0.0
    if type(cause).__module__.partition(".")[0] not in HTTP_LIBRARIES:
        return None
    response = vars(cause).get("response")
    if response is not None:
        status = int(response.status_code)
        asked = str(response.headers.get("Retry-After", ""))
        return ("network", float(asked) if asked.isdigit() else 0.0) if status in BUSY_CODES else None
    return ("network", 0.0) if any(word in type(cause).__name__ for word in OUT_OF_REACH) else None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from or while handling, each once."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        cause = waiting.pop(0)
        if cause is not None and cause not in seen:
            seen.append(cause)
            yield cause
            waiting += [cause.__cause__, cause.__context__]


def of_a_death(code: int, step: str, last: str) -> Failure:
    """The failure of a model whose process ended: by a signal where `code` is below 0."""
    import signal

    how = f"was stopped by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    where = f"stage '{step}'" if step else "the plan"
    said = f": {last}" if last else ""
    if -code == signal.SIGKILL:
        remedy = "the system was most likely short of memory"
        return Failure("killed", (f"{where}: the process that converts it {how}; {remedy}",), step)
    return Failure("crash", (f"{where}: the process that converts it {how}{said}",), step)
