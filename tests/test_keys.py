"""What a key is made of says nothing of where files lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from convert.files import portable
from convert.keys import label


def test_a_file_is_called_by_its_name() -> None:
    assert label(Path("/home/ana/a.txt"), [Path("/home/ana/a.txt"), Path("/home/ana/b.txt")]) == "a.txt"


def test_files_of_one_name_are_told_apart_below_what_holds_them() -> None:
    files = [Path("/home/ana/m/config.json"), Path("/home/ana/m/1_Pooling/config.json")]
    assert [label(path, files) for path in files] == ["config.json", "1_Pooling/config.json"]


def test_one_file_named_in_two_ways_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = [Path("a.txt"), tmp_path / "a.txt"]
    assert [label(path, files) for path in files] == ["a.txt", "a.txt"]


def test_words_of_a_command_that_may_be_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["run", f"{tmp_path}/r.yaml", "--out=/home/ana/out", "--text", "/home/ana/t.txt", "limit=3"]
    assert [portable(word) for word in words] == ["run", "r.yaml", "--out=out", "--text", "t.txt", "limit=3"]
