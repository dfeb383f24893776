"""Speed is counted in tokens that were really read or written, within a time, in the process that holds the model."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.bundle import Bundle
from tests.fixtures_graphs import graph, text_graphs
from tests.fixtures_validate import folder, tiny_text, weights
from tests.validate.stand_ins import SpeaksNothing
from validate import runtimes, speed
from validate.runtimes import NotOnThisMachine, Session, Unsupported, llama_cpp, onnxruntime, transformers
from validate.speed import Paces, measure_speed

__all__ = ["text_graphs", "tiny_text"]  # fixtures

TOKENS = list(range(5, 105))


class Steady(SpeaksNothing):
    """Takes the same time for every token."""

    threads: int | None = 3

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.read: list[int] = []
        self.fed: list[int] = []

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        self.read.append(len(tokens))
        time.sleep(self._seconds * len(tokens))
        return np.zeros((len(tokens), 2), np.float32)

    def decode_logits(self, tokens: Sequence[int]) -> np.ndarray:
        self.fed.append(len(tokens))
        time.sleep(2 * self._seconds * len(tokens))
        return np.zeros((len(tokens), 2), np.float32)


def assert_about(rate: float | None, wanted: float) -> None:
    """Nobody sleeps for less than asked for, and on a busy machine for longer."""
    assert rate is not None
    assert 0.4 * wanted < rate <= 1.01 * wanted


def test_rates_are_tokens_over_seconds() -> None:
    session = Steady(0.002)
    got = session.speed(TOKENS)
    assert_about(got.prefill_tokens_per_second, 500)
    assert_about(got.decode_tokens_per_second, 250)
    assert (got.load_seconds, got.peak_memory_bytes, got.threads) == (0.0, None, 3)
    assert session.read == [16, 16, 100, 100]
    assert session.fed[:4] == [2, 2, 32, 32]


def test_what_is_slow_reads_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "PREFILL_SECONDS", 0.4)
    monkeypatch.setattr(speed, "DECODE_SECONDS", 0.1)
    session = Steady(0.005)
    start = time.perf_counter()
    got = session.speed(TOKENS)
    assert time.perf_counter() - start < 1.5  # 2.6 s for all the tokens, each way, twice
    assert_about(got.prefill_tokens_per_second, 200)
    assert_about(got.decode_tokens_per_second, 100)
    assert 16 <= session.read[-1] < 100
    assert 2 <= session.fed[-1] < 32


def test_a_text_shorter_than_the_first_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "STEADY_SECONDS", 0.0)
    session = Steady(0.001)
    assert measure_speed(session, TOKENS[:1]).prefill_tokens_per_second is not None
    assert session.read == session.fed == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="no tokens"):
        measure_speed(session, [])


def test_what_cannot_be_fed_has_no_rate() -> None:
    class Whole(Steady):
        def decode_logits(self, tokens: Sequence[int]) -> np.ndarray:
            raise Unsupported("it has no cache")

    assert Whole(0.0001).speed(TOKENS).decode_tokens_per_second is None


def test_a_device_that_is_missing_is_said_and_not_left_out() -> None:
    class Elsewhere(Steady):
        def logits(self, tokens: Sequence[int]) -> np.ndarray:
            raise NotOnThisMachine("no kernel for this")

    with pytest.raises(NotOnThisMachine, match="no kernel"):
        Elsewhere(0.0).speed(TOKENS)


def test_what_was_read_for_others_counts_and_is_not_read_again() -> None:
    session, paces = Steady(0.002), Paces()
    for tokens in (TOKENS[:10], TOKENS, TOKENS):
        with paces.counting("logits", (tokens,)):
            session.logits(tokens)
    session.read.clear()
    got = measure_speed(session, TOKENS, paces=paces)
    assert_about(got.prefill_tokens_per_second, 500)
    assert session.read == []
    assert session.fed, "nothing was fed before"
    assert_about(got.decode_tokens_per_second, 250)


def test_passes_too_short_to_say_are_made_anew() -> None:
    session, paces = Steady(0.0002), Paces()
    with paces.counting("logits", (TOKENS,)):
        session.logits(TOKENS)
    session.read.clear()
    assert paces.rate("logits") is None
    assert measure_speed(session, TOKENS, paces=paces).prefill_tokens_per_second
    assert session.read


def test_loading_is_counted_also_when_it_fails() -> None:
    session = Steady(0.0)
    with session.loading():
        time.sleep(0.01)
    with contextlib.suppress(KeyError), session.loading():
        time.sleep(0.01)
        raise KeyError
    assert 0.02 <= session.load_seconds < 0.2
    assert session.speed(TOKENS).load_seconds == session.load_seconds
    assert Session.load_seconds == 0.0


def test_the_peak_of_memory_is_a_peak() -> None:
    before = speed.peak_memory_bytes()
    assert before is not None
    assert before > 10_000_000
    held = np.ones(before // 8 + 16_000_000)  # more than the peak so far, whatever ran before
    after = speed.peak_memory_bytes()
    assert after is not None
    assert after >= before + 60_000_000
    del held
    later = speed.peak_memory_bytes()
    assert later is not None
    assert later >= after - 10_000_000  # the kernel counts pages a few at a time


def test_a_system_that_does_not_tell_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("", "VmHWM:\n", "VmHWM: much kB\n"):
        (tmp_path / "status").write_text(text)
        monkeypatch.setattr(speed, "_STATUS", str(tmp_path / "status"))
        assert speed.peak_memory_bytes() is None
    monkeypatch.setattr(speed, "_STATUS", str(tmp_path / "none"))
    assert speed.peak_memory_bytes() is None


def test_a_process_of_its_own_says_what_it_holds(tiny_text: dict[str, Bundle]) -> None:
    path = weights(tiny_text, "F32").path
    with runtimes.open_session(llama_cpp.RUNTIME, path, context=128, threads=1) as session:
        got = session.speed(TOKENS)
        asker = speed.peak_memory_bytes()
    assert got.prefill_tokens_per_second is not None
    assert got.prefill_tokens_per_second > 100
    assert got.decode_tokens_per_second is not None
    assert got.load_seconds > 0
    assert got.threads == 1
    assert got.peak_memory_bytes is not None
    assert asker is not None
    assert path.stat().st_size < got.peak_memory_bytes < asker, "the peak is of the process that asked"


def test_every_kind_of_session_counts_its_loading(tiny_text: dict[str, Bundle], text_graphs: dict[str, Bundle]) -> None:
    with transformers.RUNTIME.open(folder(tiny_text), threads=1) as source:
        assert source.load_seconds == 0.0
        got: Any = source.speed(TOKENS)
        assert got.load_seconds == source.load_seconds > 0
        assert (got.threads, got.peak_memory_bytes) == (1, None), f"{os.getpid()} holds more than this model"
    with onnxruntime.RUNTIME.open(graph(text_graphs), threads=1) as session:
        got = session.speed(TOKENS)
        assert got.load_seconds > 0
        assert got.threads == 1
