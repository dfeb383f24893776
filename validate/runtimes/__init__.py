"""One file per runtime; a session on any of them answers the same few questions.

A runtime is a file of this folder with a subclass of `base.Runtime` and an instance of it called RUNTIME (a name that
starts with an underscore is not one), or the like in another package, under the entry-point group `convert.runtimes`.

Call `open_session`, not `open`: it puts a process around native code, so that a file that makes the runtime abort
fails its own row of the report and nothing else.
"""

from __future__ import annotations

from pathlib import Path

from validate import plugins
from validate.errors import Killed, NotOnThisMachine, RuntimeFailure, Unsupported
from validate.json_types import Message
from validate.runtimes.base import IMAGE_MARK, Ability, Identity, ReferenceSession, Runtime, Session

__all__ = [
    "ENTRY_POINTS",
    "IMAGE_MARK",
    "Ability",
    "Identity",
    "Killed",
    "Message",
    "NotOnThisMachine",
    "ReferenceSession",
    "Runtime",
    "RuntimeFailure",
    "Session",
    "Unsupported",
    "for_format",
    "load",
    "names",
    "open_session",
]

ENTRY_POINTS = "convert.runtimes"  # the group under which other packages bring theirs


def names() -> list[str]:
    """Every runtime there is, in order; nothing is imported for it."""
    return list(_references())


def load(name: str) -> Runtime:
    """The runtime called `name`; importing it is cheap, it imports its library when asked to open.

    Raises KeyError where there is none, and TypeError for what another package calls one and is none.
    """
    reference = _references()[name]
    found = plugins.load(reference)
    if not isinstance(found, Runtime):
        raise TypeError(f"the runtime '{name}' is {reference}, a {type(found).__name__}; wanted an instance of Runtime")
    return found


def for_format(format_: str) -> Runtime | None:
    """The runtime that runs artifacts of this format, or None."""
    return next((runtime for runtime in map(load, names()) if format_ in runtime.FORMATS), None)


def _references() -> dict[str, str]:
    return plugins.references(__name__, __path__, "RUNTIME", ENTRY_POINTS)


def open_session(
    runtime: Runtime, model: Path, *, projector: Path | None = None, context: int = 512, threads: int | None = None
) -> Session:
    """A session on `model`; use it in a `with` block. Raises RuntimeFailure when the model does not load."""
    reason = runtime.available()
    if reason:
        raise Unsupported(reason)
    if lack := runtime.lacks():
        raise NotOnThisMachine(lack)
    if not runtime.ISOLATED:
        return runtime.open(model, projector=projector, context=context, threads=threads)
    from validate.runtimes._isolated import IsolatedSession

    return IsolatedSession(runtime, model, projector=projector, context=context, threads=threads)
