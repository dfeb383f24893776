"""Which output is better, and when that cannot be said; noise floors; how both are told."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.validate.sample_report import sample_report
from validate import statistics
from validate.measurement import Measurement, WindowSums
from validate.ranking import Duel, Entrant, duel, rank
from validate.report import standing_words, with_standing
from validate.report.schema import DuelEntry, Report
from validate.report.standing import noise_floors


def drifts(*means: float, noise: float = 0.05, seed: int = 1) -> list[Entrant]:
    """Outputs whose KL at 2 000 positions shares what makes the text hard, each with its own noise."""
    rng = np.random.default_rng(seed)
    blocks = statistics.Blocks.of([512] * 4)
    hard = rng.gamma(0.3, size=2048)
    found = []
    for i, mean in enumerate(means):
        kl = mean * hard / hard.mean() * np.exp(noise * rng.normal(size=2048))
        found.append(Entrant(f"o{i}", "gguf", 1000 * (i + 1), float(kl.mean()), blocks.means(kl)))
    return found


def test_what_makes_a_text_hard_for_both_cancels() -> None:
    """Each mean is known to a tenth, their ratio to a hundredth."""
    one, other = drifts(0.0062, 0.01)
    low, high = statistics.interval(one.draws)
    assert (high - low) / one.kl > 0.1
    found = duel(one, other)
    assert found.low < found.by < found.high
    assert found.by == pytest.approx(0.38, abs=0.01)
    assert found.high - found.low < 0.02
    assert not found.tied


def test_the_interval_holds_the_true_share_about_as_often_as_it_says() -> None:
    held = 0
    for seed in range(200):
        one, other = drifts(0.9, 1.0, noise=1.0, seed=seed)
        found = duel(one, other)
        held += found.low <= 0.1 <= found.high
    assert held >= 180


def test_groups_are_what_cannot_be_told_from_their_best() -> None:
    a, b, c = drifts(0.010, 0.020, 0.030)
    twin = Entrant(
        "twin", "gguf", 5000, a.kl * 1.0001, a.draws * np.random.default_rng(2).normal(1, 0.01, len(a.draws))
    )
    ranking = rank([c, b, twin, a])
    assert ranking is not None
    assert ranking.groups == [["o0", "twin"], ["o1"], ["o2"]]
    assert [(d.better, d.worse) for d in ranking.duels] == [("o0", "o1"), ("o1", "o2")]


def test_pairs_of_a_size_are_told_whether_or_not_they_differ() -> None:
    a, b, c = (
        Entrant(e.name, "gguf", size, e.kl, e.draws) for e, size in zip(drifts(1, 2, 3), (100, 104, 200), strict=True)
    )
    same = Entrant("same", "gguf", 100, b.kl, b.draws)
    foreign = Entrant("foreign", "onnx", 100, b.kl * 1.5, b.draws * 1.5)
    ranking = rank([a, b, c, same, foreign])
    assert ranking is not None
    assert {(d.better, d.worse, d.tied) for d in ranking.duels if d.same_size} == {
        ("o0", "o1", False),
        ("o0", "same", False),
        ("o1", "same", True),
    }


def test_drift_below_what_float32_can_tell_is_no_difference() -> None:
    one, other = drifts(2e-13, 9e-13)
    found = duel(one, other)
    assert (found.by, found.low, found.high, found.tied) == (0.0, 0.0, 0.0, True)


def test_too_few_blocks_or_other_ones_rank_nothing() -> None:
    one, other = drifts(1, 2)
    assert rank([Entrant("short", "gguf", 1, 0.1, np.empty(0)), one]) is None
    cut = Entrant("cut", "gguf", 1, 2.0, other.draws[:500])
    assert duel(one, cut).tied
    assert math.isnan(duel(one, cut).low)


# ---- in a report


def measured(report: Report) -> list[Measurement]:
    """A measurement with draws around each output's KL: all alike but for a hundredth."""
    shared = np.random.default_rng(0).normal(1, 0.1, 1000)
    own = np.random.default_rng(1)
    found = []
    for output in report["outputs"]:
        kl = output["metrics"].get("kl_mean")
        draws = {} if kl is None else {"kl_mean": kl * shared * own.normal(1, 0.01, 1000)}
        found.append(Measurement(draws=draws))
    return found


def test_a_floor_is_what_holds_the_sources_own_weights() -> None:
    report = sample_report()
    assert {f["runtime"]: f["output"] for f in noise_floors(report["outputs"])} == {
        "ONNX Runtime": "onnx/fp32",
        "OpenVINO": "onnx/fp32@openvino",
    }
    f16 = report["outputs"][0]
    f16["tensors"] = [{**t, "error": 0.0} for t in f16["tensors"]]
    assert noise_floors([f16]) == [{"runtime": "llama.cpp", "output": f16["label"], "kl_mean": 1.58e-8}]
    assert noise_floors([{**f16, "tensors": []}]) == []
    f32: Any = {**f16, "type": "F32", "label": "F32"}
    assert noise_floors([f16, f32])[0]["output"] == "F32"
    f32["metrics"] = {**f16["metrics"], "kl_mean": 0.3}  # broken: no floor for the others
    assert noise_floors([f16, f32])[0]["output"] == f16["label"]


def test_every_output_is_shown_against_its_runtimes_floor() -> None:
    report = with_standing(sample_report(), measured(sample_report()))
    above = {o["label"]: o.get("above_floor") for o in report["outputs"]}
    assert above["onnx/fp32"] == 1.0
    assert above["onnx/int8"] == pytest.approx(1.44e-4 / 1e-9)  # no floor lies below what float32 can tell
    assert above["fara-nano-Q4_K_M.gguf"] is None
    assert standing_words.floors(report)[0] == (
        "The noise floor of ONNX Runtime is KL 2.0e-13: onnx/fp32 holds the source's own weights."
    )
    (none,) = (said for said in standing_words.floors(report) if said.startswith("There is none"))
    assert none.startswith(
        "There is none for llama.cpp, onnxruntime-genai and transformers, quantized: no output there"
    )


def test_outputs_that_read_on_are_ranked_by_what_all_have_read() -> None:
    """Behind the windows that both read lies a harder text, which only one of them has read."""
    report = sample_report()
    one, other = report["outputs"][:2]
    chance = np.random.default_rng(0)
    easy = [WindowSums(512, 511, 512 * 0.01 * x, 500, 900.0, 900.0) for x in chance.uniform(0.5, 1.5, 8)]
    worse = [replace(w, kl=1.2 * w.kl) for w in easy]
    much = [replace(w, kl=512 * 0.1) for w in easy]
    draws = {"kl_mean": chance.normal(0.01, 0.001, 1000)}
    found = with_standing(
        {**report, "outputs": [one, other]},
        [Measurement(windows=[*easy, *much], draws=draws), Measurement(windows=worse, draws=draws)],
    )
    assert found["ranking"]["groups"] == [[one["label"]], [other["label"]]]
    (duel_,) = found["ranking"]["duels"]
    assert duel_["by"] == pytest.approx(1 - 1 / 1.2)
    assert duel_["low"] == pytest.approx(duel_["high"])  # every window is as much better


def test_places_count_outputs_and_names_are_those_of_the_page() -> None:
    report = with_standing(sample_report(), measured(sample_report()))
    found = standing_words.standings(report)
    assert found is not None
    assert sum(len(place.outputs) for place in found.places) == 25  # all that ran
    assert found.places[0].number == 1
    first = found.places[0]
    assert {name for _, name in first.outputs} == {"onnx/fp32", "onnx/fp32@openvino", "onnx/fp16@openvino"}
    assert found.places[1].number == 4
    assert found.places[-1].ahead == ""
    assert any(said.startswith("i1-Q5_K_M beats Q5_K_M by 8 % (") for said in found.same_size)


@pytest.mark.parametrize(
    ("by", "low", "high", "said"),
    [
        (0.38, 0.35, 0.41, "a beats b by 38 % (35 to 41 %)"),
        (0.9996, 0.9994, 0.9998, "a beats b by 99.96 % (99.9 to 99.98 %)"),
        (0.002, 0.001, 0.003, "a beats b by 0.2 % (0.1 to 0.3 %)"),
        (0.02, -0.03, 0.06, "a and b cannot be told apart (-3 to 6 %)"),
    ],
)
def test_a_duel_is_a_sentence(by: float, low: float, high: float, said: str) -> None:
    entry: DuelEntry = {
        "better": "a",
        "worse": "b",
        "by": by,
        "low": low,
        "high": high,
        "tied": low <= 0,
        "same_size": True,
    }
    assert standing_words.sentence(entry, "a", "b") == said
    assert Duel("a", "b", by, low, high, same_size=True).tied == entry["tied"]


@pytest.mark.parametrize(
    ("ratio", "said"), [(1.0, "1.0"), (3.14, "3.1"), (42.3, "42"), (1264.0, "1\u202f260"), (123456.0, "1.2e5")]
)
def test_a_multiple_of_the_floor_is_short(ratio: float, said: str) -> None:
    assert standing_words.times(ratio) == said
