"""A stranger's program may take a little time and a little memory, and its end is one sentence."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from validate import confined
from validate.confined import Confined
from validate.errors import Endless, RuntimeFailure


@dataclass
class Stranger:
    """What is asked; `told` shows that the answers are another process's."""

    told: list[int] = field(default_factory=list)

    def say(self, text: str) -> str:
        self.told.append(len(text))
        return text * 2

    def pid(self) -> int:
        return os.getpid()

    def loop(self) -> int:
        while True:
            pass

    def power(self) -> int:
        return len(str(10**10**9))  # one call of C that no signal's handler interrupts

    def grow(self) -> int:
        return len("a" * (2 * confined.BYTES))

    def ask_again(self) -> int:
        return INSIDE[0].ask(Stranger.pid)

    def die(self) -> None:
        os.kill(os.getpid(), 9)

    def refuse(self) -> None:
        raise ValueError("not for you")

    def panic(self) -> None:
        class Panic(BaseException):
            """As a library in Rust raises it."""

        raise Panic("oh")


INSIDE: list[Confined[Stranger]] = []


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Confined[Stranger]]:
    monkeypatch.setattr(confined, "SECONDS", 1.0)
    monkeypatch.setattr(confined, "WAKE_SECONDS", 0.05)
    made = Confined(Stranger(), "x.jinja")
    INSIDE[:] = [made]
    yield made
    made.close()


def test_answers_come_from_another_process_which_stays(asked: Confined[Stranger]) -> None:
    assert asked.ask(Stranger.say, "ab") == "abab"
    first = asked.ask(Stranger.pid)
    assert first != os.getpid()
    assert asked.ask(Stranger.pid) == first
    assert asked.ask(Stranger.ask_again) == first


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (Stranger.loop, "took more than 1 seconds"),
        (Stranger.power, "took more than 1 seconds"),
        (Stranger.grow, "took more than 1024 MB of memory"),
        (Stranger.die, "was stopped by SIGKILL"),
    ],
)
def test_what_takes_too_much_is_ended_once_and_for_all(asked: Confined[Stranger], method: object, words: str) -> None:
    with pytest.raises(Endless, match=f"x.jinja {words}"):
        asked.ask(method)
    since = time.monotonic()
    with pytest.raises(Endless, match=words):
        asked.ask(Stranger.say, "ab")
    assert time.monotonic() - since < 0.2


def test_what_it_raises_is_raised_here(asked: Confined[Stranger]) -> None:
    with pytest.raises(ValueError, match="not for you"):
        asked.ask(Stranger.refuse)
    with pytest.raises(RuntimeFailure, match="Panic: oh"):
        asked.ask(Stranger.panic)
    assert asked.ask(Stranger.say, "b") == "bb"


def test_it_ends_with_who_asked(asked: Confined[Stranger]) -> None:
    child = asked.ask(Stranger.pid)
    asked.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_nothing_that_is_open_here_is_held_there(tmp_path: Path) -> None:
    """A lock, above all: the next run of this process would wait for one that is over."""
    stranger = Confined(Stranger(), "it")
    with open(tmp_path / "lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert stranger.ask(Stranger.say, "a") == "aa"
    with open(tmp_path / "lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert stranger.ask(Stranger.say, "b") == "bb"
    stranger.close()
