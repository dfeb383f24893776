"""Every error this project raises on purpose. A leaf: imports nothing of ours.

    ConvertError                 exit 1   the root; catch it to catch them all
    ├── PlanError                exit 2   nothing was started; carries every Problem found
    │   └── RecipeError          exit 2   the YAML itself is wrong
    ├── InputError               exit 1   a file we were given is broken or hostile
    ├── StageError               exit 1   a stage could not finish
    └── BusyError                exit 1   another run holds the output folder

A validation limit that is passed is a result, not an error: the report says so and the command exits with 3.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass

from convert.json_types import JsonDict, JsonObject


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, as one readable line: where, what was got, what was wanted, what to do.

    `where` is a place a person can open: `recipes/demo.yaml:7`, `stage 'q4'`, `model.safetensors`.
    """

    where: str
    got: str
    wanted: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.got}"
        if self.wanted:
            text += f", wanted {self.wanted}"
        if self.remedy:
            text += f"; {self.remedy}"
        return text


class ConvertError(Exception):
    """The root of the tree; `exit_code` is what the command line returns for it."""

    exit_code = 1

    def __init__(self, *problems: Problem | str) -> None:
        self.problems: tuple[Problem | str, ...] = problems
        super().__init__("\n".join(map(str, problems)))


class PlanError(ConvertError):
    """The run cannot start; every reason at once in `problems`."""

    exit_code = 2


class RecipeError(PlanError):
    """The recipe's YAML is wrong; every reason at once, each with file and line."""


class InputError(ConvertError):
    """A checkpoint, tokenizer or config file is broken, hostile, or disagrees with another."""

    def __init__(self, where: str, got: str, wanted: str = "", remedy: str = "") -> None:
        self.problem = Problem(where, got, wanted, remedy)
        super().__init__(self.problem)


class StageError(ConvertError):
    """A stage could not finish; nothing was left under a final name."""

    def __init__(self, where: str, got: str, wanted: str = "", remedy: str = "") -> None:
        self.problem = Problem(where, got, wanted, remedy)
        super().__init__(self.problem)


class BusyError(ConvertError):
    """Another run holds the output folder; the message names its process."""


ENDS = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""What ends a program on purpose. Whatever else is no Exception is an error all the same: a panic in Rust."""


def raise_all(problems: Sequence[Problem], error: type[PlanError] = PlanError) -> None:
    """Raise `error` with all problems, or return when there are none."""
    if problems:
        raise error(*problems)


class RemoteError(Exception):
    """An error of another process that nobody raised on purpose; `trace` is its traceback there."""

    def __init__(self, text: str, trace: str) -> None:
        self.trace = trace
        super().__init__(text)


def to_json(error: Exception) -> JsonDict:
    """The error as JSON, for the process that asked; `from_json` makes it again there."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, ConvertError):
        problems = [asdict(p) if isinstance(p, Problem) else str(p) for p in error.problems]
        return {"kind": type(error).__name__, "problems": problems, "trace": trace}
    if isinstance(error, OSError) and error.errno is not None:
        return {"kind": "OSError", "errno": error.errno, "file": str(error.filename or ""), "trace": trace}
    if isinstance(error, MemoryError):
        return {"kind": "MemoryError", "trace": trace}
    return {"kind": "", "text": f"{type(error).__name__}: {error}", "trace": trace}


def from_json(words: JsonObject) -> Exception:
    """The error that `to_json` wrote: of the same class where it is one of ours or the system's."""
    error = _made_again(words)
    error.add_note(words["trace"])
    return error


def _made_again(words: JsonObject) -> Exception:
    problems = [Problem(**p) if isinstance(p, dict) else p for p in words.get("problems", ())]
    match words["kind"]:
        case "OSError":
            return OSError(words["errno"], os.strerror(words["errno"]), words["file"] or None)
        case "MemoryError":
            return MemoryError()
        case "":
            return RemoteError(words["text"], words["trace"])
        case "InputError" | "StageError" as kind:
            (problem,) = problems
            return {"InputError": InputError, "StageError": StageError}[kind](*astuple(problem))
        case kind:
            known = {each.__name__: each for each in (PlanError, RecipeError, BusyError)}
            return known.get(kind, ConvertError)(*problems)
