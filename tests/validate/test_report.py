"""Verdicts and the two report files."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from validate.compare import Measurement
from validate.continuation import Continuation
from validate.contract import Check, Difference
from validate.metrics import (
    CONTRACT_LIMITS,
    DEFAULT_LIMITS,
    DEFINITIONS,
    PROJECTOR_LIMITS,
    Metric,
    default_limits,
    unknown_metrics,
)
from validate.report import Report, Subject, output, to_json, to_markdown, verdict

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
    assert verdict(Measurement(metrics=GOOD), {"click_accuracy": 0.5}) == ("failed", "click_accuracy was not measured")


def make_report(*measurements: Measurement) -> Report:
    def row(name: str, measurement: Measurement) -> Any:
        file: Any = {"path": f"gguf/{name}.gguf", "size_bytes": 1234, "sha256": "ab" * 32}
        limits = {"kl_mean": (0.1, "recipe"), "templates_equal": (1.0, "default")}
        return output(Subject("gguf", "gguf", "Q8_0", file), measurement, limits)

    return {
        "schema_version": 1,
        "recipe": "demo",
        "reference": {
            "model": "m",
            "hub": "",
            "revision": "",
            "runtime": "transformers 5",
            "dtype": "float32",
            "files": [],
        },
        "text": {"name": "t.txt", "sha256": "cd" * 32, "tokens": 9, "windows": 1, "window": 9},
        "outputs": [row(f"m{i}", m) for i, m in enumerate(measurements)],
    }


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def test_json_is_strict_and_nan_is_null_with_a_reason() -> None:
    report = make_report(Measurement(metrics=GOOD | {"kl_mean": math.nan, "kl_max": math.inf}))
    (row,) = json.loads(to_json(report), parse_constant=refuse_constant)["outputs"]
    assert row["metrics"]["kl_mean"] is None
    assert row["metrics"]["kl_max"] is None
    assert row["status"] == "failed"
    assert "kl_mean is not a finite number" in row["reason"]
    assert set(row) >= {
        "stage",
        "format",
        "type",
        "path",
        "size_bytes",
        "runtime",
        "status",
        "reason",
        "metrics",
        "contract",
    }


def test_markdown_opens_with_the_verdict_and_shows_differences() -> None:
    check = Check("templates", "chat template", 2, 1, (Difference("user", "'a|b'", "'a`b\n'"),), "templates_equal")
    bad = Measurement(metrics=GOOD | {"kl_mean": 0.3, "templates_equal": 0.5}, checks=[check], parameters=1000)
    text = to_markdown(make_report(Measurement(metrics=dict(GOOD)), bad))
    assert text.startswith("# demo: 2 of 2 outputs did not pass\n")
    assert "| `m1.gguf` | **FAILED** | Q8_0 | 1.23 kB | 9.87 |" in text
    assert r"| `user` | `'a\|b'` | `'a'b '` |" in text
    assert "Contract: differs in chat template." in text


def test_markdown_of_passes_and_of_nothing() -> None:
    good = Measurement(metrics=GOOD | {"templates_equal": 1.0})
    assert to_markdown(make_report(good)).startswith("# demo: the output passed\n")
    assert to_markdown(make_report()).startswith("# demo: nothing was validated\n")


def test_a_strangers_words_cannot_break_the_table() -> None:
    text = to_markdown(make_report(Measurement(failures=["a|b\n# <script>alert(1)</script> [x](y)"])))
    assert r"a\|b # \<script\>alert(1)\</script\> \[x\](y)" in text


def test_what_was_not_run_for_the_machines_sake_is_said_first_and_is_no_failure() -> None:
    good = Measurement(metrics=GOOD | {"templates_equal": 1.0})
    lacking = Measurement(not_run="built, not run: no CUDA device", lacking=True)
    page = to_markdown(make_report(good, lacking))
    assert page.startswith("# demo: the output passed, 1 more built and not run\n")
    assert "- **NOT RUN** `m1.gguf`: built, not run: no CUDA device" in page
    assert "a machine that can" in page
    assert to_markdown(make_report(lacking)).startswith("# demo: the output was built and not run\n")
    missing = Measurement(not_run="x is not installed")
    assert to_markdown(make_report(good, missing)).startswith("# demo: 1 of 2 outputs did not pass\n")
    broken = Measurement(not_run="built, not run: no kernel", lacking=True, failures=["vision: it died"])
    assert verdict(broken, {}) == ("failed", "vision: it died")


def test_a_failure_says_what_to_do() -> None:
    drifted = Measurement(metrics=GOOD | {"kl_mean": 0.3, "templates_equal": 1.0})
    chat = Measurement(metrics=GOOD | {"templates_equal": 0.5})
    page = to_markdown(make_report(drifted, chat, Measurement(failures=["it died"]), Measurement(not_run="no runtime")))
    todo = [line for line in page.splitlines() if "What to do" in line]
    assert len(todo) == 4
    assert "publish a finer type" in todo[0]
    assert "chats reach the model in another form" in todo[1]
    assert "convert it again" in todo[2]
    assert "run again" in todo[3]


def test_every_metric_that_can_have_a_limit_has_advice() -> None:
    from validate.report import advice

    assert advice._ADVICE.keys() == DEFINITIONS.keys()


def test_what_was_not_looked_at_is_said_in_the_first_lines() -> None:
    good = Measurement(metrics=GOOD | {"templates_equal": 1.0}, vision_reason="no projector was made beside this file")
    head = to_markdown(make_report(good)).partition("## ")[0]
    assert "**not looked at** for `m0.gguf`" in head


def test_how_long_both_write_the_same_is_in_both_reports() -> None:
    greedy = Continuation(32, 64, 17)
    report = make_report(Measurement(metrics=GOOD | {"greedy_equal": greedy.share}, greedy=greedy))
    assert report["outputs"][0]["greedy"] == {"prompt_tokens": 32, "tokens": 64, "equal": 17}
    assert "17 of 64" in to_markdown(report)


def test_rounding_never_hides_on_which_side_of_a_limit_a_number_is() -> None:
    assert str(Metric("top1", 0.99996, 1.0)) == "top1 0.99996, limit >= 1"
    assert str(Metric("kl_mean", 0.1000000001, 0.1)) == "kl_mean 0.1000000001, limit <= 0.1"
    assert str(Metric("kl_mean", 0.0132456, 0.002)) == "kl_mean 0.01325, limit <= 0.002"
