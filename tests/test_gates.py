"""What an output is held to: presets, patterns, and which of several words counts."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from convert import RecipeError, load_recipe
from convert.bundle import Artifact, Bundle, Model, Role
from convert.formats.base import Output
from convert.recipe import json_schema
from convert.validation.limits import explain_limits, limits_of, proven, unknown_names
from convert.validation.outputs import outputs
from validate import gates
from validate.gates import DEFAULT, PRESETS, RECIPE, SOME_HAVE, addressing, applicable
from validate.measurement import Measurement
from validate.metrics import CONTRACT_LIMITS, DEFINITIONS, Better

# Mean KL and share of equal most likely tokens of Llama-3-8B on wikitext-2, and the strictest preset each type keeps.
PUBLISHED = {
    "Q8_0": (0.0014, 0.977, "near-lossless"),
    "Q6_K": (0.0055, 0.960, "near-lossless"),
    "Q5_K_M": (0.011, None, "good"),
    "Q4_K_M": (0.031, 0.919, "good"),
    "Q3_K_M": (0.10, None, "usable"),
    "Q2_K": (0.45, 0.71, None),
}


def made(stage: str, *types: str) -> Bundle:
    files = tuple(Artifact(f"gguf/{t}", Path(f"/o/{stage}/m-{t}.gguf"), 10) for t in types)
    return Bundle(Model("m"), {Role.WEIGHTS: files})


def row(type_: str = "Q4_K_M", stage: str = "gguf") -> Output:
    return outputs({stage: made(stage, type_)})[0]


def gate(limits: dict[str, gates.Entry], target: Output, metric: str = "kl_mean") -> tuple[float, str]:
    return limits_of(limits, target)[metric]


@pytest.mark.parametrize("type_", PUBLISHED)
def test_presets_say_of_the_published_types_what_people_say_of_them(type_: str) -> None:
    kl, top1, expected = PUBLISHED[type_]
    kept = [
        name
        for name, preset in PRESETS.items()
        if kl <= preset.limits["kl_mean"] and (top1 is None or top1 >= preset.limits["top1"])
    ]
    assert next(iter(kept), None) == expected


def test_each_preset_is_less_strict_than_the_one_before() -> None:
    presets = list(PRESETS.values())
    for strict, loose in pairwise(presets):
        assert strict.limits.keys() == loose.limits.keys()
        for name, limit in strict.limits.items():
            lower = DEFINITIONS[name].better is Better.LOWER
            assert limit <= loose.limits[name] if lower else limit >= loose.limits[name]
        assert strict.limits["kl_mean"] < loose.limits["kl_mean"]


def test_limits_of_ours_are_on_metrics_there_are() -> None:
    named = {name for preset in PRESETS.values() for name in preset.limits}
    assert named | set(CONTRACT_LIMITS) | SOME_HAVE <= set(DEFINITIONS)


# ---- whose word counts


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, (0.25, DEFAULT)),
        ({"*": {"kl_mean": 1}}, (1, RECIPE)),
        ({"*": {"preset": "good"}}, (0.05, "good")),
        ({"Q4_*": {"kl_mean": 2}, "*": {"kl_mean": 1}}, (2, RECIPE)),
        ({"Q4_K*": {"kl_mean": 3}, "Q4_*": {"kl_mean": 2}}, (3, RECIPE)),
        ({"gguf": {"kl_mean": 4}, "gguf/Q4_K_*": {"kl_mean": 3}}, (4, RECIPE)),
        ({"Q4_K_M": {"kl_mean": 5}, "gguf": {"kl_mean": 4}}, (5, RECIPE)),
        ({"gguf/Q4_K_M": {"kl_mean": 6}, "Q4_K_M": {"kl_mean": 5}}, (6, RECIPE)),
        ({"Q4_?_M": {"kl_mean": 1}, "Q4_K_[SM]": {"kl_mean": 2}}, (2, RECIPE)),
        ({"Q4_*": {"preset": "good", "kl_mean": 0.01}}, (0.01, RECIPE)),
        ({"Q4_*": {"preset": "good"}, "*": {"kl_mean": 9}}, (0.05, "good")),
        ({"Q4_*": {"top1": 0.9}, "*": {"preset": "usable"}}, (0.2, "usable")),
        ({"Q5_*": {"kl_mean": 9}, "q4_*": {"kl_mean": 9}, "gguf/Q5*": {"kl_mean": 9}}, (0.25, DEFAULT)),
    ],
)
def test_the_more_exact_word_counts(limits: dict[str, gates.Entry], expected: tuple[float, str]) -> None:
    assert gate(limits, row()) == expected
    assert gate(dict(reversed(limits.items())), row()) == expected


def test_of_two_patterns_of_one_length_the_later_counts() -> None:
    assert gate({"Q4_*": {"kl_mean": 1}, "*K_M": {"kl_mean": 2}}, row()) == (2, RECIPE)
    assert gate({"*K_M": {"kl_mean": 2}, "Q4_*": {"kl_mean": 1}}, row()) == (1, RECIPE)


def test_a_preset_never_makes_room_for_a_broken_file() -> None:
    """Q8_0 at 100 times its usual drift is broken, though as near as `usable` asks; a number says it is meant."""
    assert gate({"*": {"preset": "usable"}}, row("Q8_0")) == (0.012, DEFAULT)
    assert gate({"*": {"preset": "usable"}}, row("Q8_0"), "ppl_ratio") == (1.2, "usable")
    assert gate({"*": {"preset": "usable"}}, row("Q2_K"), "top1") == (0.8, "usable")
    assert gate({"*": {"preset": "usable", "kl_mean": 0.2}}, row("Q8_0")) == (0.2, RECIPE)


def test_keys_for_a_runtime_count_over_those_for_all() -> None:
    names = ["*", "onnx", "int4", "onnx/int4", "*@openvino", "onnx@openvino", "int4@openvino", "onnx/int4@openvino"]
    keys = ["onnx/int4@openvino", "int*@openvino", "onnx/int4", "*@openvino", "int*", "*", "int4@openvino"]
    in_order = ["*", "int*", "onnx/int4", "*@openvino", "int*@openvino", "int4@openvino", "onnx/int4@openvino"]
    assert addressing(keys, names) == in_order
    assert addressing(keys, names[:4]) == ["*", "int*", "onnx/int4"]


def test_what_only_some_models_have_is_judged_where_it_was_measured_or_asked_for() -> None:
    found = limits_of({"*": {"preset": "good"}, "Q4_K_M": {"click_drop": 0.1}}, row())
    assert set(found) > SOME_HAVE
    assert set(found) - set(applicable(found, [])) == SOME_HAVE - {"click_drop"}
    assert set(found) - set(applicable(found, ["tool_call_drop"])) == {
        *("settings_equal", "stops_equal", "image_tokens_equal", "tensors_equal", "hyperparameters_equal")
    }
    assert applicable(found, SOME_HAVE) == found


# ---- words that are wrong


RECIPE_TEXT = "name: d\nmodel: {path: m}\nstages:\n  gguf: {use: gguf, types: [Q8_0]}\nvalidate:\n  limits:\n"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("Q8_0: {kl_maen: 1}", "Q8_0: there is no metric 'kl_maen'; did you mean 'kl_mean'?"),
        ("Q8_0: {click_rat: 1}", "there is no metric 'click_rat'; did you mean 'click_rate'?"),
        ("Q8_0: {kl_mean: -1}", "Q8_0: kl_mean is -1, a limit is a number from 0 on"),
        ("Q8_0: {kl_mean: .inf}", "kl_mean is inf, a limit is a number from 0 on"),
        ("Q8_0: {kl_mean: .nan}", "kl_mean is nan, a limit is a number from 0 on"),
        ("Q8_0: {kl_mean: much}", "kl_mean is 'much', a limit is a number from 0 on"),
        ("Q8_0: {kl_mean: yes}", "kl_mean is 'yes', a limit is a number from 0 on"),
        ("Q8_0: {kl_mean: true}", "kl_mean is True, a limit is a number from 0 on"),
        ("Q8_0: {kl_mean: }", "kl_mean is None, a limit is a number from 0 on"),
        ("Q8_0: goood", "Q8_0: there is no preset 'goood'; did you mean 'good'?"),
        ("Q8_0: {preset: best}", "there is no preset 'best'; known: near-lossless, good, usable"),
        ("Q8_0: {preset: [good]}", "there is no preset ['good']"),
        ("Q8_0: 0.5", "0.5 is neither a preset's name nor metrics with limits"),
        ("Q8_0:", "None is neither a preset's name nor metrics with limits"),
        (
            "Q8_0: {kl_mean: -1, kl_maen: 1, preset: x}",
            "no preset 'x'; known: near-lossless, good, usable; there is no",
        ),
    ],
)
def test_a_wrong_word_is_one_error_with_its_line(tmp_path: Path, entry: str, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE_TEXT + "    F16: good\n    " + entry + "\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    (problem,) = map(str, caught.value.problems)
    assert problem.startswith(f"{path}:8: ")
    assert message in problem


def test_limits_as_a_recipe_may_say_them(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        RECIPE_TEXT + "    '*': usable\n    Q8_*: {preset: near-lossless, top1: 1}\n    gguf/*: {kl_mean: 1e-2}\n"
    )
    limits = load_recipe(path).stages["validate"].options.limits  # type: ignore[attr-defined]
    assert limits["Q8_*"] == {"preset": "near-lossless", "top1": 1.0}
    assert limits["*"] == {"preset": "usable"}
    found = limits_of(limits, row("Q8_0"))
    assert (found["kl_mean"], found["top1"]) == ((0.01, RECIPE), (1.0, RECIPE))
    assert found["ppl_ratio"] == (1.01, "near-lossless")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("Q4_0", "did you mean 'Q8_0'?"), ("Q4_k_m*", "did you mean 'Q4_K_M'?"), ("guf/*", "did you mean 'gguf'?")],
)
def test_a_name_that_means_no_output_is_a_problem(name: str, hint: str) -> None:
    rows = outputs({"gguf": made("gguf", "Q4_K_M", "Q8_0")})
    (problem,) = unknown_names("limits", ["*", "Q4_*", "gguf/*", "*K_M", name], rows, [])
    assert f"validate: limits for '{name}', which is no output of this recipe" in str(problem)
    assert hint in str(problem)


def test_a_pattern_for_a_runtime_that_is_not_asked_for() -> None:
    rows = outputs({"gguf": made("gguf", "Q4_K_M")})
    (problem,) = unknown_names("limits", ["Q4_*@openvino"], rows, [])
    assert problem.remedy == "add `also_on: openvino`"


def test_a_plan_shows_every_gate_and_whose_it_is() -> None:
    rows = outputs({"gguf": made("gguf", "Q4_K_M", "Q8_0")})
    quarter, eighth = explain_limits({"Q4_*": {"preset": "good", "top1": 0.5}}, rows)
    assert quarter.startswith("m-Q4_K_M.gguf: tokens_equal >= 1 (default), ")
    assert {"kl_mean <= 0.05 (good)", "top1 >= 0.5 (recipe)"} <= set(quarter.split(": ")[1].split(", "))
    assert "kl_mean <= 0.012 (default)" in eighth


def test_the_schema_offers_presets_and_metrics() -> None:
    limits = json_schema()["properties"]["validate"]["anyOf"][0]["properties"]["limits"]
    name, mapping = limits["additionalProperties"]["anyOf"]
    assert name["enum"] == list(PRESETS)
    assert set(mapping["properties"]) == {"preset", *DEFINITIONS}


DRIFTS = {"kl_mean": 0.48, "top1": 0.63, "tensors_equal": 1.0, "special_ids_equal": 0.9}


def found_in(type_: str, runtime: str, metrics: dict[str, float]) -> tuple[Output, Measurement]:
    return row(type_), Measurement(runtime=f"{runtime} (1.0)", metrics=metrics)


def test_a_file_is_proven_by_its_tensors_and_an_exact_one_on_the_same_runtime() -> None:
    exact = found_in("F16", "llama.cpp", {"kl_mean": 1e-6, "tensors_equal": 1.0})
    other = found_in("F16", "onnxruntime", {"kl_mean": 1e-6, "tensors_equal": 1.0})
    wrong = found_in("F16", "llama.cpp", {"kl_mean": 0.3, "tensors_equal": 1.0})
    rounded = found_in("Q4_0", "llama.cpp", DRIFTS)
    damaged = found_in("Q4_0", "llama.cpp", {**DRIFTS, "tensors_equal": 0.99})
    unread = found_in("Q4_0", "llama.cpp", {"kl_mean": 0.48})

    def last(*pairs: tuple[Output, Measurement]) -> bool:
        return proven([o for o, _ in pairs], [m for _, m in pairs])[-1]

    assert last(exact, rounded)
    assert not last(rounded), "nothing shows that the runtime computes it right"
    assert not last(other, rounded), "another runtime does"
    assert not last(wrong, rounded), "it does not"
    assert not last(exact, damaged)
    assert not last(exact, unread), "nobody compared its tensors"
    assert last(found_in("Int4", "gptqmodel", DRIFTS)), "which computes with the source's own code"


def test_defaults_on_drift_are_wider_for_a_proven_file_where_it_misses_them_and_no_others() -> None:
    found = limits_of({"*": {"ppl_ratio": 1.1}}, row("Q4_0"), DRIFTS)
    got = gates.of_proven(found, {**DRIFTS, "ppl_ratio": 1.5})
    assert found["kl_mean"] == (0.25, DEFAULT)
    assert got["kl_mean"] == (1.0, gates.PROVEN)
    assert got["top1"] == (0.5, gates.PROVEN)
    assert got["special_ids_equal"] == found["special_ids_equal"], "no measure of drift"
    assert got["ppl_ratio"] == (1.1, RECIPE)
    cache = gates.of_proven(limits_of({}, row("Int4")), {"decode_kl": 0.42})
    assert cache["decode_kl"] == (0.2, DEFAULT), "a cache in the wrong order is no sensitive model"
    assert gates.of_proven(found, {"kl_mean": 0.2, "top1": 0.8}) == found, "nothing is missed"
    preset = limits_of({"*": {"preset": "usable"}}, row("Q4_0"), DRIFTS)
    assert gates.of_proven(preset, DRIFTS)["kl_mean"] == (0.2, "usable"), "what a reader expects stays"


def test_no_proof_makes_a_file_worse_than_the_type_with_fewest_bits() -> None:
    worst = limits_of({}, row("Q2_K"))
    for type_ in ("F16", "Q8_0", "Q6_K", "Q5_0", "Q4_0", "Q3_K_S", "Q2_K"):
        got = gates.of_proven(limits_of({}, row(type_)), {"kl_mean": 50.0, "top1": 0.01})
        assert got["kl_mean"][0] <= worst["kl_mean"][0]
        assert got["top1"][0] >= worst["top1"][0]
