"""How long steps took on this machine, and what is said of the next."""

from __future__ import annotations

from pathlib import Path

import pytest

from convert import timings
from convert.cli.console import duration


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONVERT_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_nothing_is_known_of_what_never_ran() -> None:
    assert timings.seconds("gguf", 100) is None


def test_a_fixed_part_and_a_part_that_grows() -> None:
    for work in (100, 200, 400):
        timings.remember("gguf", work, 3.0 + work / 100)
    assert timings.seconds("gguf", 300) == pytest.approx(6.0)
    assert timings.seconds("gguf", 10) == pytest.approx(3.1)
    assert timings.seconds("onnx", 300) is None


def test_one_size_says_nothing_of_smaller_ones() -> None:
    timings.remember("gguf", 1000, 5.0)
    assert timings.seconds("gguf", 10) == pytest.approx(5.0)
    assert timings.seconds("gguf", 2000) == pytest.approx(10.0)


def test_nothing_is_said_of_what_is_far_larger() -> None:
    timings.remember("gguf", 1000, 5.0)
    assert timings.seconds("gguf", 1_000_000) is None


def test_a_damaged_or_unwritable_cache_costs_nothing(cache: Path) -> None:
    cache.mkdir()
    for text in ("", "[]", '{"gguf": 3}', '{"gguf": [["x", 1]]}', "\xff"):
        (cache / "timings.json").write_text(text)
        assert timings.seconds("gguf", 1) is None
    timings.remember("gguf", 1, 2.0)
    assert timings.seconds("gguf", 1) == pytest.approx(2.0)


def test_only_the_latest_are_kept() -> None:
    for number in range(50):
        timings.remember("gguf", 100, float(number))
    assert timings.seconds("gguf", 100) == pytest.approx(sum(range(30, 50)) / 20)


@pytest.mark.parametrize(
    ("seconds", "said"), [(8.4, "8 s"), (89, "89 s"), (95, "2 min"), (3600 * 2 + 600, "2 h 10 min")]
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
