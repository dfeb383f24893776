"""What the memory of hashes remembers, and what it must not."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from convert import hashes
from convert.hashes import HashMemory
from convert.progress import Silent


def test_a_file_just_written_is_read_again(tmp_path: Path) -> None:
    path, memory = tmp_path / "a", HashMemory(tmp_path / "m.json")
    path.write_bytes(b"one")
    assert memory.of([path], Silent())[path] == hashlib.sha256(b"one").hexdigest()
    assert memory.recall(path) is None


def test_a_large_file_just_written_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "WORTH_WAITING_BYTES", 3)
    monkeypatch.setattr(hashes, "RACY_NS", 200_000_000)
    path, memory = tmp_path / "a", HashMemory(tmp_path / "m.json")
    path.write_bytes(b"one")
    began = time.monotonic()
    memory.of([path], Silent())
    assert 0.1 < time.monotonic() - began < 5
    assert memory.recall(path) == hashlib.sha256(b"one").hexdigest()
    memory.save()
    again = HashMemory(tmp_path / "m.json")
    assert again.recall(path) == memory.recall(path)
    status = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # same size, same time of writing
    assert again.recall(path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "[[1, 2]]", '{"a": 1}', "null"])
def test_a_damaged_memory_only_costs_time(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.json").write_text(text)
    (tmp_path / "a").write_bytes(b"one")
    memory = HashMemory(tmp_path / "m.json")
    assert memory.of([tmp_path / "a"], Silent())[tmp_path / "a"] == hashlib.sha256(b"one").hexdigest()
