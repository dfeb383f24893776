"""A step's progress: what is emitted, and that a task which says nothing is still seen to be at it."""

from __future__ import annotations

import threading
import time

import pytest

from convert import events
from convert.events import Event, StepProgress


def progress_of(said: list[Event]) -> list[tuple[str, int]]:
    return [(e.data["what"], e.data["done"]) for e in said if e.kind == "progress"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "BEAT_SECONDS", 0.05)


@pytest.mark.usefixtures("quick")
def test_a_task_that_says_nothing_is_seen_to_go_on() -> None:
    said: list[Event] = []
    heard = threading.Event()

    def listen(event: Event) -> None:
        said.append(event)
        if len(progress_of(said)) == 3:
            heard.set()

    with StepProgress("step", listen) as progress:
        progress.start("one long pass", 100, "tok")
        assert heard.wait(20)
    assert set(progress_of(said)) == {("one long pass", 0)}
    seconds = [e.data["seconds"] for e in said if e.kind == "progress"]
    assert seconds == sorted(seconds)


@pytest.mark.usefixtures("quick")
def test_no_beat_before_a_task_and_none_after_the_step() -> None:
    said: list[Event] = []
    with StepProgress("step", said.append):
        time.sleep(0.2)
    assert said == []
    with StepProgress("step", said.append) as progress:
        progress.start("a", 1)
    count = len(said)
    time.sleep(0.2)
    assert len(said) == count
    assert not [t for t in threading.enumerate() if t.name == "beat step"]


@pytest.mark.usefixtures("quick")
def test_a_listener_that_fails_fails_where_the_step_emits() -> None:
    class Gone(BaseException):
        pass

    calls = []

    def listen(event: Event) -> None:
        calls.append(event)
        if event.kind == "progress":
            raise Gone

    progress = StepProgress("step", listen)
    progress.start("a", 2)
    deadline = time.monotonic() + 20
    while len(calls) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert calls[-1].kind == "progress"
    with pytest.raises(Gone):
        progress.start("b", 2)
