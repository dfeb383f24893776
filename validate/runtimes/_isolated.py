"""A session in a process of its own: when native code aborts, the caller gets an exception.

The two processes speak through a pair of connected sockets; arrays cross it as raw bytes beside the pickled answer,
so a window of logits (512 x 152k float32, 311 MB) is never copied into a pickle.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from validate.runtimes import Identity, Killed, Message, NotOnThisMachine, Runtime, RuntimeFailure, Unsupported
from validate.runtimes._watchdog import Watchdog
from validate.speed import Speed

LAST_WORDS = 600  # characters of the process's stderr worth quoting
CLOSE_SECONDS = 10
_FAILURES = {kind.__name__: kind for kind in (Unsupported, NotOnThisMachine)}


def send(pipe: Connection, value: Any) -> None:
    """Write any picklable value; the bytes of its arrays follow the pickle."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    pipe.send_bytes(pickle.dumps([len(b.raw()) for b in buffers]))
    pipe.send_bytes(head)
    for buffer in buffers:
        if len(buffer.raw()):
            pipe.send_bytes(buffer.raw())


def receive(pipe: Connection) -> Any:
    """Read what `send` wrote. Both ends are ours: nothing of a model's files is ever unpickled."""
    sizes = pickle.loads(pipe.recv_bytes())
    head = pipe.recv_bytes()
    buffers = []
    for size in sizes:
        buffer = bytearray(size)  # recv_bytes would hand out bytes, and arrays over those cannot be written to
        if size:
            pipe.recv_bytes_into(buffer)
        buffers.append(buffer)
    return pickle.loads(head, buffers=buffers)


class IsolatedSession:
    """The methods of a Session, each one question to the other process."""

    def __init__(
        self, runtime: Runtime, model: Path, *, projector: Path | None, context: int, threads: int | None
    ) -> None:
        self._name = runtime.NAME
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._pipe, theirs = Pipe()
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "validate.runtimes._worker", runtime.__name__, str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=self._stderr,
            stderr=self._stderr,
            env={**os.environ, "PYTHONPATH": path},
        )
        theirs.close()
        self._watchdog = Watchdog(self._process)
        try:
            self._ask("open", model, projector=projector, context=context, threads=threads)
        except BaseException:
            self.close()
            raise

    def _ask(self, method: str, *args: Any, **options: Any) -> Any:
        try:
            with self._watchdog:
                send(self._pipe, (method, args, options))
                kind, value = receive(self._pipe)
        except (EOFError, OSError) as error:
            words = self._obituary(method)
            outside = self._process.returncode == -signal.SIGKILL and not self._watchdog.reason
            raise (Killed if outside else RuntimeFailure)(words) from error
        if kind == "answer":
            return value
        raise _FAILURES.get(kind, RuntimeFailure)(value)

    def _obituary(self, method: str) -> str:
        try:
            code = self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:  # the pipe broke and the process lives on
            self._process.terminate()
            code = self._process.wait()
        if self._watchdog.reason:
            return f"{self._name} {self._watchdog.reason} in {method} and was ended"
        how = f"was stopped by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        # ggml prints a backtrace after the sentence that matters
        words = next((line for line in lines if "GGML_ASSERT" in line or "error" in line.lower()), "")
        words = words or "\n".join(lines)[-LAST_WORDS:]
        return f"{self._name} {how} in {method}" + (f": {words.strip()[:LAST_WORDS]}" if words else "")

    def identity(self) -> Identity:
        return self._ask("identity")  # type: ignore[no-any-return]

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        return self._ask("tokenize", text, add_special=add_special, parse_special=parse_special)  # type: ignore[no-any-return]

    def detokenize(self, tokens: Sequence[int]) -> str:
        return self._ask("detokenize", tokens)  # type: ignore[no-any-return]

    def pieces(self) -> list[str]:
        return self._ask("pieces")  # type: ignore[no-any-return]

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        return self._ask("logits", tokens)  # type: ignore[no-any-return]

    def decode_logits(self, tokens: Sequence[int]) -> np.ndarray:
        return self._ask("decode_logits", tokens)  # type: ignore[no-any-return]

    def generate(self, tokens: Sequence[int], count: int) -> list[int]:
        return self._ask("generate", tokens, count)  # type: ignore[no-any-return]

    def render(self, messages: Sequence[Message], tools: Sequence[Message] | None, generation_prompt: bool) -> str:
        return self._ask("render", messages, tools, generation_prompt)  # type: ignore[no-any-return]

    def image_embeddings(self, pixels: np.ndarray) -> np.ndarray:
        return self._ask("image_embeddings", pixels)  # type: ignore[no-any-return]

    def image_logits(self, prompt: str, pixels: np.ndarray) -> np.ndarray:
        return self._ask("image_logits", prompt, pixels)  # type: ignore[no-any-return]

    def image_generate(self, prompts: Sequence[str], images: Sequence[np.ndarray], count: int) -> list[list[int]]:
        return self._ask("image_generate", prompts, images, count)  # type: ignore[no-any-return]

    def image_tokens(self, width: int, height: int) -> int:
        return self._ask("image_tokens", width, height)  # type: ignore[no-any-return]

    def speed(self, tokens: Sequence[int]) -> Speed:
        """As the session measures itself there, with the memory of its process."""
        return self._ask("speed", tokens)  # type: ignore[no-any-return]

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
