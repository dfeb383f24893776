"""What a recipe of graphs and engines may get wrong: one message for each, with its line, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from convert.errors import ConvertError
from convert.plan import plan
from convert.recipe import load_recipe

MODEL = Path(__file__).parents[1] / "recipes" / "models" / "fara-nano"


def problems(folder: Path, onnx: str, tensorrt: str = "", validate: str = "") -> list[str]:
    """What planning a recipe of an onnx stage (line 4) and a tensorrt stage (line 5) has to say."""
    lines = ["name: r", f"model: {{path: {MODEL}}}", "stages:", f"  onnx: {{use: onnx{onnx}}}"]
    lines += [f"  trt: {{use: tensorrt, from: onnx{tensorrt}}}"] if tensorrt else []
    lines += [f"validate: {{tokens: 128{validate}}}"] if validate else []
    path = folder / "r.yaml"
    path.write_text("\n".join(lines) + "\n")
    try:
        found = [str(problem) for problem in plan(load_recipe(path), folder / "out").problems]
    except ConvertError as error:
        found = [str(problem) for problem in error.problems]
    return [problem.removeprefix(f"{path}:") for problem in found]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("precision: q4", "4: precision: 'q4' is not one of fp32, fp16, bf16, int8, int4, q4f16; did you mean int4?"),
        ("precision: [fp32, float16]", "did you mean fp16?"),
        ("keep_fp32: 3", "4: keep_fp32 is 3: input should be a valid list"),
        ("precision: fp16, keep_fp32: lm_haed", "4: keep_fp32: 'lm_haed' matches no weight's name; names are like"),
    ],
)
def test_options_of_onnx(tmp_path: Path, options: str, said: str) -> None:
    (problem,) = problems(tmp_path, f", {options}")
    assert said in problem


def test_one_layer_to_keep_needs_no_list(tmp_path: Path) -> None:
    assert problems(tmp_path, ", precision: fp16, keep_fp32: lm_head") == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("profiles: [{name: a, sequence: 0}]", "5: sequence: 0 starts at 0"),
        ("profiles: [{name: a, sequence: 1, batch: 0}]", "5: batch: 0 starts at 0"),
        ("profiles: [{name: a, sequence: [5, 3, 1]}]", "5: sequence: [5, 3, 1] is no range"),
        ("workspace: 1000000", "5: workspace: '1000000' is no size, wanted a number and MB, GB, MiB or GiB"),
        ("compute_capabilities: sm_86", "wanted one of 7.5, 8.0, 8.6"),
    ],
)
def test_options_of_tensorrt(tmp_path: Path, options: str, said: str) -> None:
    (problem,) = problems(tmp_path, "", f", {options}")
    assert said in problem


def test_one_gpu_named_twice_is_one() -> None:
    from convert.formats.tensorrt.stage import TensorRTOptions

    assert TensorRTOptions.model_validate({"compute_capabilities": ["8.6", 8.6]}).compute_capabilities == ["8.6"]
    assert TensorRTOptions.model_validate({"compute_capabilities": 8.9}).compute_capabilities == ["8.9"]


def test_engines_for_more_than_the_model_was_made_for() -> None:
    from convert.formats.tensorrt.choice import BuildSettings, profile_problems
    from convert.formats.tensorrt.profiles import Made, Profile

    asked = (Profile("long", {"sequence": (1, 2, 600), "past": (0, 1, 513)}), Profile("odd", {"patches": (4, 6, 8)}))
    said = [str(problem) for problem in profile_problems(BuildSettings(profiles=asked), Made(512, None, 4))]
    assert said == [
        "profiles: sequence of profile long goes to 600, wanted at most the model's 512 positions",
        "profiles: past of profile long goes to 513, wanted at most the model's 512 positions",
        "profiles: patches of profile odd are 6, wanted multiples of 4: so many make one image token",
    ]
    assert not list(profile_problems(BuildSettings(profiles=asked[:1]), Made(None)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("require: runn", "5: require is 'runn', wanted 'run', or names -> 'run'"),
        ("require: {onnx: yes}", "5: require: onnx is 'yes', wanted 'run'"),
        ("limits: {'onnx/fp32@openvino': {kl_mean: 1}}", "add `also_on: openvino`"),
    ],
)
def test_what_a_validation_is_asked(tmp_path: Path, options: str, said: str) -> None:
    (problem,) = problems(tmp_path, "", validate=f", {options}")
    assert said in problem


def test_a_second_runtime_that_is_not_installed_is_said_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from validate.runtimes import openvino

    monkeypatch.setattr(
        openvino.RUNTIME,
        "available",
        lambda: "openvino not installed: pip install 'convert-quantize-validate[openvino]'",
    )
    (problem,) = problems(tmp_path, "", validate=", also_on: openvino")
    assert (
        problem == "5: also_on: openvino, and openvino not installed; pip install 'convert-quantize-validate[openvino]'"
    )
