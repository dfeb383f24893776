"""A model's forward pass that can be stopped at each of its layers.

The pass runs in a thread of its own, as it is written; where it calls a layer, it rests until somebody hands it what
the layer gives. One thread runs at a time, so that many passes stand at the same layer while its weights are read
once. What a family does around its layers (positions, masks, features added in between) is its own code, unchanged.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from convert.model.layered import Layer

Output: TypeAlias = object  # of a layer or a model: a tensor, a tuple, or a transformers ModelOutput


@dataclass(frozen=True)
class Call:
    """A layer, and the arguments that a pass calls it with."""

    layer: Layer
    args: tuple[object, ...]
    kwargs: dict[str, object]
    number: int = 0  # of the pass

    def run(self) -> Output:
        """What the layer gives; its weights have to be there."""
        return self.layer.forward(*self.args, **self.kwargs)


class _Stopped(BaseException):
    """Raised in a pass that nobody goes on with, so that its thread ends."""


class _Current(threading.local):
    """The pass that a thread runs."""

    current: Pass | None = None


class Pass:
    """A forward pass, made of a function that runs it; nothing runs before `advance`. `number` tells it from others."""

    _of_thread = _Current()

    def __init__(self, number: int, function: Callable[[], Output]) -> None:
        self.number, self._function = number, function
        self._resume, self._resting = threading.Semaphore(0), threading.Semaphore(0)
        self._call: Call | None = None
        self._given: Output = None
        self._error: BaseException | None = None
        self._stopped = False
        self.ended = False  # and `output` was there
        self.output: Output = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    @classmethod
    def here(cls) -> Pass | None:
        """The pass that the calling code is a part of."""
        return cls._of_thread.current

    def advance(self, given: Output = None) -> Call | None:
        """Go on to the next layer, whose call is returned, or to the end, where `output` is there.

        `given` is the output of the layer that the pass rests at. Raises what the pass raised.
        """
        self._given = given
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._resume.release()
        given = None
        self._resting.acquire()
        if self._error is not None:
            raise self._error
        return self._call

    def at(self, call: Call) -> Output:
        """Called within the pass: rest at a layer, and return what it gives."""
        self._call = call
        self._resting.release()
        del call
        self._resume.acquire()
        if self._stopped:
            raise _Stopped
        given, self._given, self._call = self._given, None, None
        return given

    def stop(self) -> None:
        """End the pass where it stands."""
        if self._thread.is_alive():
            self._stopped = True
            self._resume.release()
            self._thread.join()

    def _run(self) -> None:
        type(self)._of_thread.current = self
        try:
            self.output = self._function()
            self.ended = True
        except _Stopped:
            pass
        except BaseException as error:  # handed to who waits for the pass
            self._error = error
        finally:
            self._call = None
            self._resting.release()
