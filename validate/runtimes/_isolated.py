"""A session in a process of its own: when native code aborts, the caller gets an exception."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import TypeVar, cast

import numpy as np

from validate.errors import Endless, Killed, NotOnThisMachine, RuntimeFailure, Unsupported
from validate.json_types import Message
from validate.kv_cache import CacheSize, CacheTypes
from validate.runtimes._pipe import receive, send
from validate.runtimes._watchdog import Watchdog
from validate.runtimes.base import Ability, Identity, ModelSettings, Runtime, Session
from validate.speed import Speed

LAST_WORDS = 600  # characters of the process's stderr worth quoting
CLOSE_SECONDS = 10
QUICK_SECONDS = {"render": 60.0, "tokenize": 600.0, "identity": 600.0}  # of a processor: what a stranger's file decides
_FAILURES = {kind.__name__: kind for kind in (Unsupported, NotOnThisMachine, Endless)}
_Answer = TypeVar("_Answer")


@dataclass
class _Question:
    """A method that was asked for; its answer once that came."""

    method: str
    answer: object = None


class IsolatedSession(Session):
    """The methods of a Session, each one question to the other process."""

    def __init__(
        self, runtime: Runtime, model: Path, *, projector: Path | None, context: int, threads: int | None
    ) -> None:
        self._name = runtime.NAME
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._pipe, theirs = Pipe()
        self._owed: _Question | None = None  # whose answer was not received yet
        self._process = subprocess.Popen(
            [sys.executable, "-m", "validate.runtimes._worker", _reference(runtime), str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=self._stderr,
            stderr=self._stderr,
            env={**os.environ, "PYTHONPATH": _import_path()},
        )
        theirs.close()
        self._watchdog = Watchdog(self._process)
        try:
            self._ask(type(None), "open", model, projector=projector, context=context, threads=threads)
        except BaseException:
            self.close()
            raise

    def _ask(self, answer: type[_Answer], method: str, *args: object, **options: object) -> _Answer:
        """What the session there answers to a method, of the type `answer`; what it raises is raised here."""
        question = _Question(method)
        self._send(question, args, options)
        return self._receive(answer, question)

    def _send(self, question: _Question, args: Sequence[object], options: Mapping[str, object]) -> None:
        """Put a question; the other process works on it until `_receive`, and one before it is received first."""
        if self._owed is not None:
            self._settle(self._owed)
        try:
            send(self._pipe, (question.method, args, options))
        except (EOFError, OSError) as error:
            raise self._death(question.method) from error
        self._owed = question

    def _receive(self, answer: type[_Answer], question: _Question) -> _Answer:
        if question.answer is None:
            self._settle(question)
        kind, value = cast(tuple[str, _Answer | str], question.answer)
        if kind == "answer":
            return cast(_Answer, value)
        raise _FAILURES.get(kind, RuntimeFailure)(value)

    def _settle(self, question: _Question) -> None:
        """Wait for the answer that is owed."""
        self._owed = None
        try:
            with self._watchdog.within(QUICK_SECONDS.get(question.method)):
                question.answer = receive(self._pipe)
        except (EOFError, OSError) as error:
            raise self._death(question.method) from error

    def _death(self, method: str) -> RuntimeFailure | Killed:
        words = self._exit_words(method)
        outside = self._process.returncode == -signal.SIGKILL and not self._watchdog.reason
        return (Killed if outside else RuntimeFailure)(words)

    def _exit_words(self, method: str) -> str:
        try:
            code = self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:  # the pipe broke and the process lives on
            self._process.terminate()
            code = self._process.wait()
        if self._watchdog.reason:
            return f"{self._name} {self._watchdog.reason} in {method} and was ended"
        how = f"was stopped by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if code == -signal.SIGKILL:  # it could say nothing of that: what it said last is chatter
            return f"{self._name} {how} in {method}"
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        # ggml prints a backtrace after the sentence that matters
        words = next((line for line in lines if "GGML_ASSERT" in line or "error" in line.lower()), "")
        words = words or "\n".join(lines)[-LAST_WORDS:]
        return f"{self._name} {how} in {method}" + (f": {words.strip()[:LAST_WORDS]}" if words else "")

    def can(self, ability: Ability) -> bool:
        if ability is Ability.IMAGES:
            return self.identity().has_vision  # a dead process is then reported as dead "in identity"
        return self._ask(bool, "can", ability)

    def identity(self) -> Identity:
        return self._ask(Identity, "identity")

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        return self._ask(list[int], "tokenize", text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, tokens: Sequence[int]) -> str:
        return self._ask(str, "detokenize", tokens)

    def pieces(self) -> list[str]:
        return self._ask(list[str], "pieces")

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        return self._ask(np.ndarray, "logits", tokens)

    def logits_of(self, windows: Sequence[Sequence[int]]) -> Iterator[np.ndarray]:
        following: _Question | None = None
        for number, tokens in enumerate(windows):
            question = following or self._put_logits(tokens)
            found = self._receive(np.ndarray, question)
            following = self._put_logits(windows[number + 1]) if number + 1 < len(windows) else None
            yield found

    def _put_logits(self, tokens: Sequence[int]) -> _Question:
        question = _Question("logits")
        self._send(question, (tokens,), {})
        return question

    def decode_logits(self, tokens: Sequence[int]) -> np.ndarray:
        return self._ask(np.ndarray, "decode_logits", tokens)

    def generate(self, tokens: Sequence[int], count: int) -> list[int]:
        return self._ask(list[int], "generate", tokens, count)

    def generate_all(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        return self._ask(list[list[int]], "generate_all", prompts, count)

    def render(self, messages: Sequence[Message], tools: Sequence[Message] | None, generation_prompt: bool) -> str:
        return self._ask(str, "render", messages, tools, generation_prompt)

    def image_embeddings(self, pixels: np.ndarray) -> np.ndarray:
        return self._ask(np.ndarray, "image_embeddings", pixels)

    def image_logits(self, prompt: str, pixels: np.ndarray) -> np.ndarray:
        return self._ask(np.ndarray, "image_logits", prompt, pixels)

    def image_generate(self, prompts: Sequence[str], images: Sequence[np.ndarray], count: int) -> list[list[int]]:
        return self._ask(list[list[int]], "image_generate", prompts, images, count)

    def settings(self) -> ModelSettings:
        return self._ask(ModelSettings, "settings")

    def image_tokens(self, width: int, height: int) -> int:
        return self._ask(int, "image_tokens", width, height)

    def cache_size(self, types: CacheTypes, tokens: int) -> CacheSize:
        return self._ask(CacheSize, "cache_size", types, tokens)

    def open_cache(self, types: CacheTypes, tokens: int) -> None:
        self._ask(type(None), "open_cache", types, tokens)

    def read_cached(self, tokens: Sequence[int], wanted: Sequence[int]) -> np.ndarray:
        return self._ask(np.ndarray, "read_cached", tokens, wanted)

    def embed(self, tokens: Sequence[int]) -> np.ndarray:
        return self._ask(np.ndarray, "embed", tokens)

    def speed(self, tokens: Sequence[int]) -> Speed:
        """As the session measures itself there, with the memory of its process."""
        return self._ask(Speed, "speed", tokens)

    def close(self) -> None:
        """End the process and wait for it; its memory is free when this returns."""
        self._watchdog.close()
        self._pipe.close()  # the worker leaves at once, whatever it is doing
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_SECONDS)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._stderr.close()


def _reference(runtime: Runtime) -> str:
    """What the other process makes its own runtime of: "package.module:Class"."""
    return f"{type(runtime).__module__}:{type(runtime).__qualname__}"


def _import_path() -> str:
    """The other process imports from where this one does, so that it finds another package's runtime too."""
    root = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(dict.fromkeys([root, *filter(None, sys.path)]))
