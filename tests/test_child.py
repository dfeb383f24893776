"""A process of its own: how it ended is told, and a full disk is a full disk."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from convert import child


def module(folder: Path, text: str) -> dict[str, str]:
    """Environment in which `python -m ends` runs `text`."""
    (folder / "ends.py").write_text(text)
    return {"PYTHONPATH": f"{folder}:{Path(__file__).parents[1]}"}


def test_how_it_ended_and_what_it_said(tmp_path: Path) -> None:
    heard: list[str] = []
    ended = child.run(
        "ends", [], heard.append, environment=module(tmp_path, "print('a'); print('b'); raise SystemExit(3)")
    )
    assert (ended.code, ended.last, heard) == (3, ("a", "b"), ["a", "b"])
    assert ended.how == "ended with exit code 3"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_not_the_builders_failure(tmp_path: Path, code: int) -> None:
    text = f"raise OSError({code}, 'No space left on device')"
    with pytest.raises(OSError, match=r"No space left|quota exceeded") as caught:
        child.run("ends", [], lambda line: None, environment=module(tmp_path, text))
    assert caught.value.errno == code
