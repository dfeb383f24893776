"""A runtime in another environment: its Python runs a worker file, which answers over its standard input and output.

The protocol, for whoever writes a worker, is docs/extend/runtime-elsewhere.md: a question is a line of JSON, so is its
answer, and an array's bytes follow the line that describes it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NoReturn

import numpy as np

from validate.errors import Killed, NotOnThisMachine, RuntimeFailure, Unsupported
from validate.json_types import JsonObject
from validate.runtimes._watchdog import Watchdog
from validate.runtimes.base import Ability, Identity, Runtime, Session

PROTOCOL = 1
HELLO_SECONDS = 60.0  # to start a Python and look for a package
CLOSE_SECONDS = 10.0
LINE_BYTES = 1 << 26  # the names of a vocabulary of 256k are 6 MB
SHOWN = 120  # characters of a line that is no answer
LAST_WORDS = 600
PAGE = "docs/extend/runtime-elsewhere.md"
_KINDS = {"failed": RuntimeFailure, "unsupported": Unsupported, "not_on_this_machine": NotOnThisMachine}
_DTYPES: Mapping[str, np.dtype] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
_HIDDEN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


@dataclass(frozen=True)
class Hello:
    """What a worker says before it opens anything."""

    name: str
    versions: Mapping[str, str]
    formats: tuple[str, ...]
    methods: frozenset[str]
    missing: str = ""  # what is not installed there, and how to
    lacks: str = ""  # what the machine has no device for
    note: str = ""  # "activations in bfloat16"


@dataclass(frozen=True)
class Environment:
    """A Python, the worker it runs, and the worker's own options as JSON."""

    python: Path
    worker: Path
    options: str = "{}"

    def hello(self) -> Hello:
        """What the worker says of itself, asked once. Raises RuntimeFailure where it does not."""
        return _hello(self)


@functools.lru_cache(maxsize=32)
def _hello(environment: Environment) -> Hello:
    with contextlib.closing(WorkerProcess(environment.python.name, environment)) as process:
        said = process.hello()
    return said


class WorkerProcess:
    """The process, and one question after the other to it."""

    def __init__(self, name: str, environment: Environment) -> None:
        self._name, self._environment, self._number, self._late = name, environment, 0, ""
        for path, what in ((environment.python, "python"), (environment.worker, "worker")):
            if not path.is_file():
                raise RuntimeFailure(f"{what} is {path}, which is no file; wanted the path of one")
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        try:
            self._process = subprocess.Popen(
                [str(environment.python), str(environment.worker)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env={name: value for name, value in os.environ.items() if name not in _HIDDEN},
                start_new_session=True,  # Ctrl-C is ours to handle, and what it starts ends with it
            )
        except OSError as error:
            self._stderr.close()
            raise RuntimeFailure(f"{environment.python} does not start: {error.strerror}") from error
        self._watchdog = Watchdog(self._process, group=True)

    def hello(self) -> Hello:
        """What the worker says of itself, within HELLO_SECONDS."""
        timer = threading.Timer(HELLO_SECONDS, self._too_late)
        timer.start()
        try:
            said = self.ask("hello", options=json.loads(self._environment.options))
        finally:
            timer.cancel()
        if not isinstance(said, dict) or said.get("protocol") != PROTOCOL:
            self._garbage(f"hello with {json.dumps(said)}", f"an object with protocol {PROTOCOL}")
        versions, texts = said.get("versions"), [said.get(name) or "" for name in ("missing", "lacks", "note")]
        formats, methods, name = said.get("formats", []), said.get("methods", []), said.get("name")
        if not (_is_texts(formats) and _is_texts(methods) and _is_texts([name, *texts])):
            self._garbage(f"hello with {json.dumps(said)}", "name, formats and methods as text")
        if not isinstance(versions, dict) or not _is_texts([*versions, *versions.values()]):
            self._garbage(f"hello with versions {json.dumps(versions)}", "an object of texts")
        return Hello(str(name), versions, tuple(formats), frozenset(methods), *texts)

    def _too_late(self) -> None:
        self._late = f"gave no answer for {HELLO_SECONDS:.0f} s"
        self._kill()

    def ask(self, method: str, shape: tuple[int, ...] | None = None, /, **params: object) -> object:
        """What the worker answers; with `shape`, an array of that shape. Raises what it raised, as ours."""
        self._number += 1
        line = json.dumps({"id": self._number, "method": method, "params": params}) + "\n"
        try:
            with self._watchdog:
                return self._exchange(line.encode(), shape)
        except (EOFError, OSError) as error:
            outside = self._wait() == -signal.SIGKILL and not self._watchdog.reason and not self._late
            raise (Killed if outside else RuntimeFailure)(self._exit_words(method)) from error

    def _exchange(self, line: bytes, shape: tuple[int, ...] | None) -> object:
        questions, replies = self._process.stdin, self._process.stdout
        assert questions is not None
        assert isinstance(replies, io.BufferedReader)
        questions.write(line)
        questions.flush()
        head = replies.readline(LINE_BYTES)
        if not head.endswith(b"\n"):
            if len(head) >= LINE_BYTES:
                self._garbage(f"a line longer than {LINE_BYTES} bytes")
            raise EOFError
        said = self._parsed(head)
        if "error" in said:
            raise self._error(said["error"])
        if shape is None:
            if "result" not in said:
                self._garbage(_quoted(head), "a result")
            return said["result"]
        dtype = self._dtype(said.get("array"), shape)
        data = bytearray(math.prod(shape) * dtype.itemsize)
        view, got = memoryview(data), 0
        while got < len(data):
            count = replies.readinto(view[got:])
            if not count:
                raise EOFError
            got += count
        return np.frombuffer(data, dtype).reshape(shape).astype(np.float32, copy=False)

    def _parsed(self, head: bytes) -> JsonObject:
        try:
            said = json.loads(head)
        except ValueError:
            self._garbage(_quoted(head))
        if not isinstance(said, dict) or said.get("id") != self._number:
            self._garbage(_quoted(head), f"an object with id {self._number}")
        return said

    def _error(self, said: object) -> RuntimeFailure:
        if not isinstance(said, dict) or said.get("kind") not in _KINDS or not isinstance(said.get("message"), str):
            self._garbage(f"the error {json.dumps(said)}", f"kind (one of {', '.join(_KINDS)}) and message")
        return _KINDS[said["kind"]](said["message"])

    def _dtype(self, said: object, shape: tuple[int, ...]) -> np.dtype:
        if not isinstance(said, dict) or said.get("dtype") not in _DTYPES or said.get("shape") != list(shape):
            self._garbage(f"array {json.dumps(said)}", f"{' or '.join(_DTYPES)} of shape {list(shape)}")
        return _DTYPES[str(said["dtype"])]

    def _garbage(self, got: str, wanted: str = "a line of JSON") -> NoReturn:
        """Nothing that comes behind it could be understood: the process is ended."""
        self._kill()
        remedy = "what its libraries print has to go to standard error" if wanted == "a line of JSON" else "see " + PAGE
        raise RuntimeFailure(f"the worker {self._environment.worker.name} answered {got}; wanted {wanted}; {remedy}")

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _wait(self) -> int:
        try:
            return self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:  # the pipe broke and the process lives on
            self._kill()
            return self._process.wait()

    def _exit_words(self, method: str) -> str:
        code = self._wait()
        if late := self._late or self._watchdog.reason:
            return f"{self._name} {late} in {method} and was ended"
        how = f"was stopped by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        self._stderr.seek(0)
        words = self._stderr.read().decode(errors="replace").strip()[-LAST_WORDS:]
        return f"{self._name} {how} in {method}" + (f": {words}" if words else "")

    def close(self) -> None:
        """End the process, and what it started; its memory is free when this returns."""
        self._watchdog.close()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()  # the worker leaves
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_SECONDS)
        self._kill()
        self._process.wait()
        self._stderr.close()


class ElsewhereSession(Session):
    """A model that a worker holds; see Session for the methods."""

    def __init__(
        self, runtime: ElsewhereRuntime, environment: Environment, model: Path, context: int, threads: int | None
    ) -> None:
        self._process = WorkerProcess(runtime.NAME, environment)
        self.threads = threads
        try:
            with self.loading():
                self._methods = self._process.hello().methods
                options = json.loads(environment.options)
                words = {"model": str(model.absolute()), "context": context, "threads": threads, "options": options}
                self._process.ask("open", **words)
            self._identity = _identity(self._process.ask("identity"))
        except BaseException:
            self.close()
            raise

    def can(self, ability: Ability) -> bool:
        return ability in (Ability.GENERATE, Ability.DECODE) and ability.value in self._methods

    def identity(self) -> Identity:
        return self._identity

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        answer = self._process.ask("tokenize", text=text, add_special=add_special, parse_special=parse_special)
        return _numbers(answer, "tokenize")

    def detokenize(self, tokens: Sequence[int]) -> str:
        return str(self._process.ask("detokenize", tokens=_plain(tokens)))

    def pieces(self) -> list[str]:
        answer = self._process.ask("pieces")
        if not isinstance(answer, list) or not _is_texts(answer):
            raise RuntimeFailure("the worker answered pieces with no list of texts")
        return answer

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        return self._array("logits", tokens)

    def decode_logits(self, tokens: Sequence[int]) -> np.ndarray:
        if not self.can(Ability.DECODE):
            return super().decode_logits(tokens)
        return self._array("decode_logits", tokens)

    def _array(self, method: str, tokens: Sequence[int]) -> np.ndarray:
        answer = self._process.ask(method, (len(tokens), self._identity.vocab), tokens=_plain(tokens))
        assert isinstance(answer, np.ndarray)
        return answer

    def generate(self, tokens: Sequence[int], count: int) -> list[int]:
        if not self.can(Ability.GENERATE):
            return super().generate(tokens, count)
        return _numbers(self._process.ask("generate", tokens=_plain(tokens), count=count), "generate")

    def close(self) -> None:
        self._process.close()


class ElsewhereRuntime(Runtime):
    """A runtime whose library lives in another environment; a worker there answers."""

    ISOLATED = False  # it is in a process of its own already

    def __init__(self, environment: Environment | None = None) -> None:
        self.environment = environment

    def available(self) -> str | None:
        """Why it cannot run there, or None."""
        if self.environment is None:
            return f"{self.NAME} not installed: name the Python of an environment that has it"
        try:
            return self.environment.hello().missing or None
        except RuntimeFailure as error:
            return str(error)

    def lacks(self) -> str | None:
        """What the worker says this machine lacks."""
        return None if self.environment is None else self.environment.hello().lacks or None

    def versions(self) -> Mapping[str, str]:
        """Distribution -> version in the other environment; none where it does not answer."""
        with contextlib.suppress(RuntimeFailure):
            return self.environment.hello().versions if self.environment else {}
        return {}

    def version(self) -> str:
        """What ran, for the report: versions, and what the worker notes of its arithmetic."""
        if self.environment is None or not self.versions():
            return f"worker protocol {PROTOCOL}"
        note = self.environment.hello().note
        words = [f"{name} {version}" for name, version in self.versions().items()]
        return ", ".join([*words, note] if note else words)

    def open(
        self, model: Path, *, projector: Path | None = None, context: int = 512, threads: int | None = None
    ) -> ElsewhereSession:
        """A session on `model`, text only: the protocol has no images."""
        assert self.environment is not None, "open_session asks available() first"
        return ElsewhereSession(self, self.environment, model, context, threads)


def runtime_named(name: str, environment: Environment) -> ElsewhereRuntime:
    """The runtime that a recipe names with a worker of its own; its formats are what the worker says."""
    try:
        said = environment.hello()
    except RuntimeFailure:  # available() says why
        said = Hello(name, {}, (), frozenset())

    class Named(ElsewhereRuntime):
        NAME = said.name
        ALSO_RUNS = said.formats

    return Named(environment)


def _identity(said: object) -> Identity:
    """The worker's words as an Identity. Raises RuntimeFailure for what is none."""
    known = {f.name: f for f in fields(Identity)}
    if not isinstance(said, dict) or not isinstance(said.get("vocab"), int) or set(said) - set(known):
        raise RuntimeFailure(
            f"the worker's identity is {json.dumps(said)[:SHOWN]}; wanted vocab and the words of {PAGE}"
        )
    words = dict(said)
    if "end_of_generation" in words:
        words["end_of_generation"] = frozenset(_numbers(words["end_of_generation"], "identity"))
    return Identity(**{**words, "own_templates": False, "has_vision": False})


def _numbers(answer: object, method: str) -> list[int]:
    if not isinstance(answer, list) or not all(type(i) is int for i in answer):
        raise RuntimeFailure(f"the worker answered {method} with {json.dumps(answer)[:SHOWN]}; wanted a list of ids")
    return answer


def _plain(tokens: Sequence[int]) -> list[int]:
    return [int(token) for token in tokens]


def _is_texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _quoted(head: bytes) -> str:
    return repr(head[:SHOWN].decode(errors="replace").rstrip("\n"))
