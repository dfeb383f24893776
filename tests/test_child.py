"""A process of its own: what it tells arrives whatever is printed, how it ended is known, a full disk is one."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from convert import child, messages
from convert.progress import Silent


class Told(Silent):
    """All that a Progress is told, in order."""

    def __init__(self) -> None:
        self.all: list[tuple[Any, ...]] = []

    def start(self, what: str, total: int, unit: str = "B") -> None:
        self.all.append(("start", what, total, unit))

    def advance(self, amount: int) -> None:
        self.all.append(("advance", amount))

    def note(self, text: str) -> None:
        self.all.append(("note", text))

    def warn(self, text: str) -> None:
        self.all.append(("warn", text))


def ran(home: Path, text: str, told: Told | None = None, **options: Any) -> child.Ended:
    """How a process that runs `text` ended."""
    (home / "ends.py").write_text(text)
    environment = {"PYTHONPATH": f"{home}:{Path(__file__).parents[1]}"}
    return child.run(["ends"], told, environment=environment, **options)


def test_how_it_ended_and_what_was_printed(tmp_path: Path) -> None:
    lines: list[str] = []
    ended = ran(tmp_path, "print('a'); print('b'); raise SystemExit(3)", on_line=lines.append)
    assert (ended.code, ended.last, ended.result, ended.failure, lines) == (3, ("a", "b"), None, "", ["a", "b"])
    assert ended.how == "ended with exit code 3"


def test_what_it_tells(tmp_path: Path) -> None:
    told = Told()
    text = """
from convert.messages import parent
parent().start("eating", 2, "apple")
parent().advance(1)
parent().note("a worm\\nin it")
parent().warn("none left")
parent().result({"eaten": [1, None], "worms": "\\u00fc"})
"""
    ended = ran(tmp_path, text, told)
    assert told.all == [
        ("start", "eating", 2, "apple"),
        ("advance", 1),
        ("note", "a worm\nin it"),
        ("warn", "none left"),
    ]
    assert ended == child.Ended(0, (), {"eaten": [1, None], "worms": "ü"})


def test_the_exception_that_ends_it(tmp_path: Path) -> None:
    ended = ran(tmp_path, "print('x' * 5)\nraise ValueError('no\\nsuch  model')")
    assert (ended.code, ended.failure) == (1, "ValueError: no such model")
    assert ended.last[-1] == "such  model"  # the traceback is there too


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("after", ["", "; import atexit; atexit.register(print, 'tidied up\\n' * 100)"])
def test_a_full_disk_is_not_the_builders_failure(tmp_path: Path, code: int, after: str) -> None:
    text = f"import sys{after}\nraise OSError({code}, 'No space left on device')"
    with pytest.raises(OSError, match=r"No space left|quota exceeded") as caught:
        ran(tmp_path, text)
    assert caught.value.errno == code


# ---- rubbish

RUBBISH = """
import os, sys, threading
from convert.messages import parent

stop = threading.Event()

def print_rubbish(number):
    while not stop.is_set():
        sys.stdout.write("17/30 [00:12<00:09" * 50)  # never a line end
        sys.stderr.write('{"kind": "advance", "amount": 1000}\\n{"kind": "result"')
        os.write(1, b"\\r\\xff\\x00\\x1b[2K{}" * 200)
        os.write(2, bytes(range(256)) * 100)

threads = [threading.Thread(target=print_rubbish, args=(i,)) for i in range(3)]
for thread in threads:
    thread.start()
parent().start("layers", 400, "layer")
for i in range(400):
    sys.stdout.write("{")  # into the middle of whatever line there is
    parent().note(f"layer {i} " + "y" * i * 10)
    parent().advance(1)
os.write(1, b"z" * (8 << 20))
stop.set()
for thread in threads:
    thread.join()
parent().result({"layers": 400})
"""


def test_nothing_that_is_printed_gets_into_what_is_told(tmp_path: Path) -> None:
    told, lines = Told(), []
    ended = ran(tmp_path, RUBBISH, told, on_line=lines.append)
    assert (ended.code, ended.result) == (0, {"layers": 400})
    expected = [[("note", f"layer {i} " + "y" * i * 10), ("advance", 1)] for i in range(400)]
    assert told.all == [("start", "layers", 400, "layer"), *(each for pair in expected for each in pair)]
    assert max(map(len, lines)) < child.PRINTED_LINE_BYTES + 40
    assert any("more bytes)" in line for line in lines)


def test_threads_tell_whole_messages(tmp_path: Path) -> None:
    told = Told()
    text = """
import threading
from convert.messages import parent
def tell(name):
    for i in range(200):
        parent().note(f"{name} {i} " + name * 20_000)  # more than a pipe takes at once
threads = [threading.Thread(target=tell, args=(name,)) for name in "ab"]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    assert ran(tmp_path, text, told).code == 0
    for name in "ab":
        own = [text for _, text in told.all if text.startswith(name)]
        assert own == [f"{name} {i} " + name * 20_000 for i in range(200)]


@pytest.mark.parametrize(
    "rubbish",
    [
        b"Loading: 10%",
        b'{"kind": "advance", "amount": 1}{"kind": "advance", "amount": 1}',  # "Extra data"
        b'{"kind": "advance", "amount": "many"}',
        b'{"kind": "start", "what": "x"}',
        b'{"kind": "shout", "text": "x"}',
        b'{"kind": "result", "value": 3}',
        b"[1, 2]",
        b"null",
        b"\xff\xfe\x00",
        b"9" * 10_000,
        b"[" * 200_000,
        b'{"kind": "note", "text": "',
    ],
    ids=lambda rubbish: repr(rubbish[:30]),
)
@pytest.mark.parametrize("end", ["", "\n"])
def test_a_message_that_cannot_be_read_is_a_note(tmp_path: Path, rubbish: bytes, end: str) -> None:
    told = Told()
    text = f"""
import os
from convert.messages import parent
parent().note("before")
os.write(parent()._write.__self__._descriptor, {rubbish!r} + {end.encode()!r})
parent().note("after")
parent().result({{}})
"""
    ended = ran(tmp_path, text, told)
    before, unreadable, after = told.all
    assert (before, after, ended.code, ended.result) == (("note", "before"), ("note", "after"), 0, {})
    assert unreadable[0] == "note"
    assert unreadable[1].startswith("unreadable message from a child process: ")
    assert len(unreadable[1]) < 5 * messages.SHOWN


def test_rubbish_without_an_end_takes_no_memory() -> None:
    reader = messages.LineReader(100)
    started = time.monotonic()
    assert [line for _ in range(2000) for line in reader.feed(b"x" * (1 << 16))] == []
    assert list(reader.feed(b"\nnext\n")) == ["x" * 100 + f" … ({2000 * (1 << 16) - 100:,} more bytes)", "next"]
    assert time.monotonic() - started < 10


def test_text_that_no_log_can_hold_is_made_encodable() -> None:
    told = Told()
    messages.Child(told).take('{"kind": "note", "text": "a\\ud800b"}')
    assert told.all == [("note", "a?b")]


# ---- pipes that are closed, and pipes that stay open

CLOSES = """
import os
from convert.messages import parent
parent().note("before")
os.closerange(3, 100)
kept = os.open("weights", os.O_WRONLY | os.O_CREAT)  # has the number of the pipe now
files = [os.open("weights", os.O_WRONLY) for _ in range(20)]
parent().note("lost")
print("it goes on", flush=True)
"""


def test_a_process_whose_library_closed_the_pipe_goes_on(tmp_path: Path) -> None:
    told = Told()
    ended = ran(tmp_path, CLOSES, told, folder=tmp_path)
    assert (ended.code, ended.last, told.all) == (0, ("it goes on",), [("note", "before")])
    assert (tmp_path / "weights").read_bytes() == b""


def test_a_process_that_closes_its_outputs_goes_on(tmp_path: Path) -> None:
    told = Told()
    text = "import os\nfrom convert.messages import parent\nos.close(1); os.close(2)\nparent().result({'a': 1})\n"
    assert ran(tmp_path, text + "os._exit(0)", told) == child.Ended(0, (), {"a": 1})


GRANDCHILD = """
import os, subprocess, sys
from convert.messages import parent
code = {code!r}
grandchild = subprocess.Popen([sys.executable, "-c", code], start_new_session={session})
parent().result({{"pid": grandchild.pid}})
print("done", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(
    "code", ["import time; time.sleep(60)", "while True: print('y' * 10_000)"], ids=["silent", "loud"]
)
@pytest.mark.parametrize("session", [False, True])
def test_what_the_process_left_behind_holds_nobody_up(tmp_path: Path, code: str, session: bool) -> None:
    lines: list[str] = []
    started = time.monotonic()
    ended = ran(tmp_path, GRANDCHILD.format(code=code, session=session), on_line=lines.append)
    assert time.monotonic() - started < 30
    assert ended.code == 0
    assert any("done" in line for line in lines)
    assert ended.result is not None
    pid = ended.result["pid"]
    if session:  # it left the process's family; it is its own
        with contextlib.suppress(ProcessLookupError):  # the loud one may have died of the closed pipe
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---- as before


def test_what_the_listener_raises_ends_the_process(tmp_path: Path) -> None:
    class Stops(Told):
        def note(self, text: str) -> None:
            raise KeyboardInterrupt(text)

    text = "import os, time\nfrom convert.messages import parent\nparent().note(str(os.getpid()))\ntime.sleep(60)"
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt) as caught:
        ran(tmp_path, text, Stops())
    assert time.monotonic() - started < 20
    assert not is_running(int(str(caught.value)))


def test_outside_of_such_a_process_nobody_is_told() -> None:
    messages.Parent(lambda message: None).note("nothing")
    assert messages.parent().result({"x": 1}) is None
