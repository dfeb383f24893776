"""A cache that is not read, and values that are none behind the first token: neither may pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from convert.bundle import Bundle
from tests.fixtures_validate import folder, tiny_vision  # noqa: F401
from tests.validate.stand_ins import SpeaksNothing
from validate import vision
from validate.measurement import Candidate, Measurement, Questions
from validate.measures.base import Comparison, RunningCandidate
from validate.measures.cache import Cache
from validate.metrics import default_limits
from validate.report.build import verdict
from validate.runtimes import RuntimeFailure, transformers
from validate.runtimes._graph_session import GraphSession

TOKENS = list(range(20))


class Forgetful(SpeaksNothing):
    """A session that reads at once what it should, and forgets the past when tokens are fed one at a time."""

    def __init__(self, forgets: bool) -> None:
        self._table = np.random.default_rng(0).normal(0, 4, (len(TOKENS), 50)).astype(np.float32)
        self._forgets = forgets

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        rows: np.ndarray = self._table[: len(tokens)]
        return rows

    def decode_logits(self, tokens: Sequence[int]) -> np.ndarray:
        rows: np.ndarray = self._table[np.zeros(len(tokens), int) if self._forgets else np.arange(len(tokens))]
        return rows


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "int4"])
@pytest.mark.parametrize("forgets", [False, True])
def test_a_graph_of_any_precision_that_does_not_read_its_cache_fails(precision: str, forgets: bool) -> None:
    nobody: Any = None
    measure = Cache(Comparison(nobody, Questions([TOKENS]), nobody))
    limits = default_limits(precision)
    good = {name: 0.0 if name.startswith(("kl", "decode")) else 1.0 for name in limits}
    result = Measurement(metrics={**good, "ppl_ratio": 1.0})
    measure.measure(RunningCandidate(Candidate(Path("x"), None, None, 1), Forgetful(forgets), result))
    status, reason = verdict(result, limits)
    assert status == ("failed" if forgets else "passed"), reason
    assert ("decode_" in reason) == forgets


def test_a_token_is_not_picked_of_logits_that_are_none() -> None:
    session: Any = GraphSession.__new__(GraphSession)
    session._model = SimpleNamespace(name="model.onnx")
    assert session._best(np.array([[0.0, 2.0, 1.0]])).tolist() == [1]
    with pytest.raises(RuntimeFailure, match=r"model\.onnx: the logits of a token it wrote are not finite"):
        session._best(np.array([[0.0, np.nan, 1.0]]))


def test_the_source_fed_one_at_a_time_gives_what_it_gives_at_once(tiny_vision: dict[str, Bundle]) -> None:  # noqa: F811
    """Quantized checkpoints run on the same session; an image seen before must not shift the positions of a text."""
    with transformers.RUNTIME.open(folder(tiny_vision), threads=1) as session:
        session.image_logits(session.image_prompt("Look."), vision.drawing())
        assert np.allclose(session.decode_logits(TOKENS), session.logits(TOKENS), atol=1e-5)
