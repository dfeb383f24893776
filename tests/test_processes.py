"""Processes that tests start get the signals of a terminal, and none is waited for without a limit."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import processes

TESTS = Path(__file__).parent
BY_HAND = ("peer_*.py", "bench/*.py", "scale/*.py")  # programs that a person starts
WAITS = re.compile(r"subprocess\.(run|Popen|call|check_call|check_output)\(|\.(wait|join|communicate)\(\)")
ALLOWED = {"processes.py", "parity/upstream.py", "test_processes.py", "test_child.py"}  # limited, or in texts

PRINT_IGNORED = """
import signal
print([s.name for s in map(signal.Signals, (1, 2, 15)) if signal.getsignal(s) == signal.SIG_IGN])
"""


def test_ignored_signals_are_not_inherited() -> None:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGINT)}
    try:
        command = [sys.executable, "-c", PRINT_IGNORED]
        plain = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        assert plain.stdout == "['SIGHUP', 'SIGINT']\n"  # what is mended here
        assert processes.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"
        with processes.started(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.communicate(timeout=60)[0] == "[]\n"
        assert signal.getsignal(signal.SIGHUP) == signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_started_process_is_ended() -> None:
    with (
        pytest.raises(subprocess.TimeoutExpired),
        processes.started([sys.executable, "-c", "import time; time.sleep(600)"]) as process,
    ):
        process.wait(0.1)
    assert process.returncode == -signal.SIGKILL


def test_no_test_waits_without_a_limit() -> None:
    by_hand = {path for pattern in BY_HAND for path in TESTS.glob(pattern)}
    found = [
        f"{path.relative_to(TESTS)}:{number}: {line.strip()}"
        for path in sorted(set(TESTS.rglob("*.py")) - by_hand)
        if path.relative_to(TESTS).as_posix() not in ALLOWED
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if WAITS.search(line)
    ]
    assert found == [], "tests.processes starts them with a limit"


def test_a_hanging_test_ends_the_process_that_runs_it(tmp_path: Path) -> None:
    (tmp_path / "test_hangs.py").write_text("import time\ndef test_hangs():\n    time.sleep(600)\n")
    command = [sys.executable, "-m", "pytest", "-c", str(TESTS.parent / "pyproject.toml"), "--rootdir", str(tmp_path)]
    limit = ["-o", "faulthandler_timeout=1", str(tmp_path)]  # the project's limit, shorter
    ended = processes.run([*command, *limit], check=False, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 1
    assert "test_hangs.py" in ended.stderr
    assert "Timeout (" in ended.stderr
