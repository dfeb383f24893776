"""`tokens: auto`: when a candidate has read enough, on made drifts whose true mean is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from validate import drift, enough
from validate.drift import WindowDrift

LIMITS = {"kl_mean": 0.05, "top1": 0.9}


def window(rng: np.random.Generator, kl: float, top1: float = 0.97, tokens: int = 512) -> WindowDrift:
    """A window whose positions have this KL on average, and as often the same first choice."""
    nll = rng.gamma(1.0, 2.0, tokens - 1)
    return WindowDrift(
        kl=rng.gamma(0.5, 2 * kl, tokens),
        same_top=rng.random(tokens) < top1,
        top5=rng.random(tokens),
        logit_abs=rng.random(tokens),
        nll_reference=nll,
        nll_candidate=nll + rng.normal(0, 0.05, tokens - 1),
    )


def windows(number: int, kl: float, top1: float = 0.97, seed: int = 0) -> list[WindowDrift]:
    rng = np.random.default_rng(seed)
    return [window(rng, kl, top1) for _ in range(number)]


def windows_read(drifts: Sequence[WindowDrift], limits: dict[str, float]) -> int:
    """How many windows are read by who stops at the first step that decides."""
    asked = enough.steps([len(w.kl) for w in drifts])
    return next((step for step in asked if enough.decide(drifts[:step], limits).decided), asked[-1])


# ---- steps


def test_each_step_doubles_what_was_read_and_the_last_is_the_most() -> None:
    assert enough.steps([512] * 1000) == [4, 8, 16, 32, 64, 128]


@pytest.mark.parametrize(
    ("lengths", "steps"),
    [
        ([512] * 5, [4, 5]),  # the texts end between two steps
        ([512] * 3, [3]),  # and before the first
        ([512] * 8, [4, 8]),
        ([500] * 30, [5, 9, 17, 30]),  # no window ends on a step: the next end does
        ([9000, 100], [1, 2]),  # a window longer than several steps
        ([70_000, 100], [1]),  # and than all there is to read
        ([], []),
    ],
)
def test_steps_end_where_windows_do(lengths: list[int], steps: list[int]) -> None:
    assert enough.steps(lengths) == steps


# ---- decisions


@pytest.mark.parametrize("kl", [0.01, 0.2])
def test_what_lies_far_from_its_limit_is_decided_at_once_on_either_side(kl: float) -> None:
    assert windows_read(windows(128, kl), {"kl_mean": 0.05}) == 4


def test_the_nearer_the_limit_the_more_is_read() -> None:
    read = [windows_read(windows(128, kl), {"kl_mean": 0.05}) for kl in (0.03, 0.046, 0.0485, 0.05)]
    assert read == sorted(read)
    assert read[0] == 4
    assert read[-1] == 128


def test_one_undecided_limit_is_enough_to_go_on_and_is_named() -> None:
    found = enough.decide(windows(4, 0.05), LIMITS)
    assert not found.decided
    (left,) = found.undecided
    assert left.metric == "kl_mean"
    assert str(left).startswith("kl_mean 0.0")
    assert str(left).endswith("limit <= 0.05")


def test_a_metric_that_has_to_be_high_is_decided_alike() -> None:
    for top1, decided in ((0.97, True), (0.9, False), (0.8, True)):
        assert enough.decide(windows(4, 0.01, top1, seed=1), {"top1": 0.9}).decided is decided


def test_what_is_equal_everywhere_keeps_a_limit_of_all() -> None:
    assert enough.decide(windows(4, 0.01, top1=1.0), {"top1": 1.0}).decided


def test_a_quantile_without_enough_beyond_it_is_not_decided_yet() -> None:
    few = enough.decide(windows(4, 0.01), {"kl_p999": 10.0})  # ten positions beyond it need ten thousand
    assert [str(left).partition("(")[2] for left in few.undecided] == [
        "too few positions for an interval), limit <= 10"
    ]
    assert enough.decide(windows(32, 0.01), {"kl_p999": 10.0}).decided


def test_what_no_text_is_resampled_for_is_not_waited_for() -> None:
    contract = {"tokens_equal": 1.0, "decode_kl": 0.1, "kl_max": 3.0}
    assert enough.decidable({**contract, **LIMITS}) == LIMITS
    assert enough.decide(windows(4, 0.05), contract).decided


def test_every_metric_that_is_resampled_is_one_that_can_decide() -> None:
    assert set(drift.summarize(windows(32, 0.05)).draws) == drift.RESAMPLED


def test_a_decision_needs_no_more_than_its_own_intervals_and_they_are_the_reports() -> None:
    drifts = windows(32, 0.05)
    whole, part = drift.summarize(drifts), drift.summarize(drifts, ["kl_mean", "kl_p99"])
    assert {"kl_p95", "p_p99"}.isdisjoint(part.draws)
    for name in ("kl_mean", "kl_p99"):
        assert part.intervals[name] == whole.intervals[name]


def test_nothing_read_decides_nothing() -> None:
    with pytest.raises(drift.NotComparable, match="no window"):
        enough.decide([], LIMITS)


def test_wrong_stops_are_rare() -> None:
    """A true mean just under the limit is seldom surely above it, although it is asked six times."""
    wrong = 0
    for seed in range(60):
        drifts = windows(16, 0.0475, seed=seed)
        for step in enough.steps([len(w.kl) for w in drifts]):
            (low, _) = drift.summarize(drifts[:step], ["kl_mean"]).intervals["kl_mean"]
            if enough.decide(drifts[:step], {"kl_mean": 0.05}).decided:
                wrong += low > 0.05
                break
    assert wrong <= 4


# ---- what is said


def test_it_says_when_it_stopped_and_why() -> None:
    drifts = windows(4, 0.01)
    assert enough.reading(drifts, enough.decide(drifts, LIMITS)) == enough.Reading(
        2048, 4, True, "every limit is decided after 2,048 tokens"
    )
    near = windows(4, 0.05)
    found = enough.reading(near, enough.decide(near, LIMITS))
    assert (found.decided, found.tokens) == (False, 2048)
    assert found.reason.startswith("not decided after 2,048 tokens, where the texts end: kl_mean 0.0")
    assert "2,048 tokens, the most that is read: " in enough.reading(near, enough.decide(near, LIMITS), 2048).reason
