"""Metrics, verdicts and report.json; its pages are in test_markdown and test_html."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from tests.validate.sample_report import sample_report
from validate.continuation import Greedy
from validate.contract import Check, Difference
from validate.measurement import Measurement, WindowSums
from validate.metrics import (
    CONTRACT_LIMITS,
    DEFAULT_LIMITS,
    DEFINITIONS,
    PROJECTOR_LIMITS,
    Metric,
    default_limits,
    unknown_metrics,
)
from validate.report import Output, Report, Subject, output, to_json, verdict
from validate.slices import Slice
from validate.toolcalls import ToolCalls
from validate.worst import Guess, Row

GOOD = {"kl_mean": 0.001, "top1": 0.99, "ppl_ratio": 1.001}


@pytest.mark.parametrize(
    ("metric", "passed"),
    [
        (Metric("kl_mean", 0.1, 0.1), True),
        (Metric("kl_mean", 0.11, 0.1), False),
        (Metric("top1", 0.9, 0.9), True),
        (Metric("top1", 0.89, 0.9), False),
        (Metric("ppl_ratio", 1.2, 1.1), False),
        (Metric("kl_mean", 5.0), True),
        (Metric("kl_mean", math.nan), False),
        (Metric("kl_mean", math.nan, math.inf), False),
        (Metric("top1", math.inf, 0.5), False),
        (Metric("kl_mean", -math.inf, 0.5), False),
    ],
)
def test_a_metric_passes_inside_its_limit_and_when_finite(metric: Metric, passed: bool) -> None:
    assert metric.passed is passed


def test_limits_name_metrics_that_exist() -> None:
    for limits in (CONTRACT_LIMITS, *DEFAULT_LIMITS.values(), *PROJECTOR_LIMITS.values()):
        assert limits.keys() <= DEFINITIONS.keys()
    assert default_limits("Q4_K_M")["kl_mean"] == DEFAULT_LIMITS["Q4"]["kl_mean"]
    assert default_limits("fp16")["kl_mean"] == DEFAULT_LIMITS["FP16"]["kl_mean"]
    assert default_limits("Q8_0", "F16")["image_cosine_unresized"] == PROJECTOR_LIMITS["*"]["image_cosine_unresized"]
    assert default_limits("int8", "int8")["image_cosine_unresized"] < 0.99
    assert "image_cosine" not in default_limits("F16")
    assert default_limits("IQ2_XS")["kl_mean"] == DEFAULT_LIMITS["*"]["kl_mean"]
    assert unknown_metrics({"kl_maen": 1, "top1": 1}) == {"kl_maen": "kl_mean"}


@pytest.mark.parametrize(
    ("measurement", "status", "said"),
    [
        (Measurement(metrics=GOOD), "passed", ""),
        (Measurement(metrics=GOOD | {"kl_mean": 0.2}), "failed", "kl_mean 0.2, limit <= 0.1"),
        (Measurement(metrics=GOOD | {"kl_max": math.nan}), "failed", "kl_max is not a finite number"),
        (Measurement(metrics={"top1": 1.0, "kl_mean": 0.0}), "failed", "ppl_ratio was not measured"),
        (Measurement(), "failed", "kl_mean was not measured"),
        (Measurement(metrics=GOOD, failures=["vision: it died"]), "failed", "vision: it died"),
        (Measurement(metrics=GOOD, not_run="no runtime"), "not_run", "no runtime"),
    ],
)
def test_only_all_measured_finite_and_inside_passes(measurement: Measurement, status: str, said: str) -> None:
    got, reason = verdict(measurement, {"kl_mean": 0.1})
    assert got == status
    assert said in reason


def test_a_limit_on_what_was_not_measured_is_no_pass() -> None:
    assert verdict(Measurement(metrics=GOOD), {"click_rate": 0.5}) == ("failed", "click_rate was not measured")


def test_what_broke_comes_before_what_was_not_run() -> None:
    broken = Measurement(not_run="built, not run: no kernel", lacking=True, failures=["vision: it died"])
    assert verdict(broken, {}) == ("failed", "vision: it died")


def test_a_limit_missed_by_less_than_the_noise_is_said_to_be() -> None:
    unsure = Measurement(metrics=dict(GOOD), draws={"kl_mean": np.linspace(0.0004, 0.0014, 101)})
    status, reason = verdict(unsure, {"kl_mean": 0.0008})
    assert status == "failed"
    assert "not surely: kept on 41% of resampled texts" in reason
    sure = Measurement(metrics=dict(GOOD), draws={"kl_mean": np.linspace(0.0009, 0.0014, 101)})
    assert verdict(sure, {"kl_mean": 0.0008}) == ("failed", "kl_mean 0.001, limit <= 0.0008")


def test_what_was_resampled_is_called_what_it_is() -> None:
    few = Measurement(metrics=GOOD | {"click_drop": 0.1}, draws={"click_drop": np.linspace(0.0, 0.2, 101)})
    assert "of resampled clicks: measure on more)" in verdict(few, {"click_drop": 0.05})[1]


def make_report(*measurements: Measurement) -> Report:
    """A report of GGUF files m0, m1, … that are held to two limits."""

    def row(name: str, measurement: Measurement) -> Any:
        file: Any = {"path": f"gguf/{name}.gguf", "size_bytes": 1234, "sha256": "ab" * 32}
        limits = {"kl_mean": (0.1, "recipe"), "templates_equal": (1.0, "default")}
        return output(Subject("gguf", "gguf", "Q8_0", file), measurement, limits)

    base = sample_report()
    return base | {"outputs": [row(f"m{i}", m) for i, m in enumerate(measurements)]}  # type: ignore[return-value]


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def test_json_is_strict_and_nan_is_null_with_a_reason() -> None:
    report = make_report(Measurement(metrics=GOOD | {"kl_mean": math.nan, "kl_max": math.inf}))
    (row,) = json.loads(to_json(report), parse_constant=refuse_constant)["outputs"]
    assert row["metrics"]["kl_mean"] is None
    assert row["metrics"]["kl_max"] is None
    assert row["status"] == "failed"
    assert "kl_mean is not a finite number" in row["reason"]


def whole_measurement() -> Measurement:
    """One of everything."""
    found = Measurement(runtime="r", parameters=1000, metrics=dict(GOOD), greedy=Greedy(2, 64, 128, 81, (64, 17)))
    found.add({"kl_mean": 0.001}, {"kl_mean": np.linspace(0.0005, 0.0015, 101)})
    found.quantiles = ((0.5, 1e-4), (1.0, 0.2))
    found.slices = [Slice("set", "prose", 90, 0.002, 0.001, math.nan, 0.98, 1.01)]
    found.worst = [Row("prose", 0, 3, 0.2, "before", "next", [Guess("a", 0.9)], [Guess("b", 0.8)])]
    found.windows = [WindowSums(100, 99, 0.1, 98, 200.0, 199.0)]
    found.checks = [Check("templates", "chat template", 2, 1, (Difference("user", "a", "b"),), "templates_equal")]
    found.tool_calls = ToolCalls(12, 11, 10)
    return found


def test_every_word_of_a_row_is_the_schemas() -> None:
    words = json.loads(to_json(make_report(whole_measurement(), Measurement(not_run="no runtime"))))
    TypeAdapter(Report).validate_json(json.dumps(words), strict=True)
    row = words["outputs"][0]
    assert row.keys() | {"fit"} == Output.__annotations__.keys()  # which files whose types were chosen have
    assert row["intervals"]["kl_mean"] == [pytest.approx(0.000525), pytest.approx(0.001475)]
    assert row["limits"]["kl_mean"] == {"better": "<=", "limit": 0.1, "source": "recipe", "p_worse": 0.0}
    assert row["limits"]["templates_equal"]["p_worse"] is None
    assert row["slices"][0]["kl_high"] is None
    assert row["greedy"]["lengths"] == [64, 17]
    assert row["tool_calls"] == {"asked": 12, "valid_reference": 11, "valid": 10}
    assert row["bits_per_weight"] == 9.872
    assert row["contract"]["templates"]["metric"] == "templates_equal"


def test_every_metric_that_can_have_a_limit_has_advice() -> None:
    from validate.report import advice

    assert advice._ADVICE.keys() == DEFINITIONS.keys()


def test_rounding_never_hides_on_which_side_of_a_limit_a_number_is() -> None:
    assert str(Metric("top1", 0.99996, 1.0)) == "top1 0.99996, limit >= 1"
    assert str(Metric("kl_mean", 0.1000000001, 0.1)) == "kl_mean 0.1000000001, limit <= 0.1"
    assert str(Metric("kl_mean", 0.0132456, 0.002)) == "kl_mean 0.01325, limit <= 0.002"
