"""The stage: from bundles to a report, with files that are good, drifted, broken or not runnable."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from convert import registry
from convert.bundle import Artifact, Bundle, Model, Role
from convert.errors import StageError
from convert.model.reference import link_files
from convert.progress import Silent
from convert.run import Result
from convert.source.stage import STAGE as source
from convert.validation.checks import window_of
from convert.validation.limits import limits_of
from convert.validation.outputs import outputs
from convert.validation.stage import STAGE as stage
from tests import tiny
from tests.fixtures_validate import rewritten, tiny_text, tiny_vision, weights
from validate import compare, memory, runtimes, vision

__all__ = ["tiny_text", "tiny_vision"]  # fixtures

FEW = {"tokens": 96, "window": 48, "threads": 1}


NAMES = {"report.json", "report.md", "report.html"}


def report_of(options: stage.Options, inputs: dict[str, Bundle], tmp_path: Path) -> tuple[dict[str, Any], str]:
    out = tmp_path / "demo" / "validate.partial"
    out.mkdir(parents=True)
    bundle = stage.run(options, inputs, out, Silent())
    files = {a.path.name: a for a in bundle.of(Role.REPORT)}
    assert files.keys() == NAMES
    assert {path.name for path in out.iterdir()} == files.keys()
    assert bundle.of(Role.WEIGHTS) == inputs["source"].of(Role.WEIGHTS)
    return json.loads(files["report.json"].path.read_text()), files["report.md"].path.read_text()


def with_weights(inputs: dict[str, Bundle], *paths: tuple[str, Path]) -> dict[str, Bundle]:
    made = tuple(Artifact(f"gguf/{type_}", path, path.stat().st_size, "0" * 64) for type_, path in paths)
    return inputs | {"gguf": inputs["gguf"].with_(weights=made)}


def test_good_files_pass_and_the_report_has_its_words(tiny_text: dict[str, Bundle], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Don't click the button 12 times, then wait. " * 20)
    options = stage.Options(text=text, limits={"F32": {"kl_mean": 1e-9}, "*": {"ppl_change": 0.02}}, **FEW)
    report, page = report_of(options, tiny_text, tmp_path)
    assert report["schema_version"] == 2
    assert report["recipe"] == "demo"
    assert [(t["name"], t["kind"], t["tokens"]) for t in report["texts"]] == [("text.txt", "text", 96)]
    assert report["reference"]["cache"]["whole"]
    assert [row["type"] for row in report["outputs"]] == ["F32", "Q8_0"]
    exact, rounded = report["outputs"]
    assert exact["status"] == "passed", exact["reason"]
    assert exact["metrics"]["kl_mean"] < 1e-9 < rounded["metrics"]["kl_mean"]
    assert exact["metrics"]["positions"] == 96
    assert exact["limits"]["kl_mean"] == {"better": "<=", "limit": 1e-9, "source": "recipe", "p_worse": 0.0}
    assert rounded["limits"]["kl_mean"]["source"] == "default"
    assert rounded["size_bytes"] == weights(tiny_text, "Q8_0").path.stat().st_size
    assert rounded["vision"]["reason"] == "the source takes no images"
    assert page.startswith("# demo: ")
    assert "## Vision" not in page
    greedy = exact["greedy"]
    assert (greedy["prompts"], greedy["prompt_tokens"]) == (2, 32)
    assert greedy["equal"] == greedy["tokens"] == sum(greedy["lengths"])
    assert exact["metrics"]["greedy_equal"] == 1.0
    assert "greedy_equal" not in exact["limits"]


def test_limits_decide_and_the_reason_says_so(tiny_text: dict[str, Bundle], tmp_path: Path) -> None:
    options = stage.Options(limits={"gguf/Q8_0": {"kl_mean": 1e-9}, "Q8_0": {"kl_mean": 1.0}}, **FEW)
    report, page = report_of(options, tiny_text, tmp_path)
    rounded = report["outputs"][1]
    assert rounded["status"] == "failed"
    assert "limit <= 1e-09" in rounded["reason"]
    assert "did not pass" in page.splitlines()[0]


def test_broken_files_fail_their_row_and_only_theirs(tiny_text: dict[str, Bundle], tmp_path: Path) -> None:
    good = weights(tiny_text, "F32").path
    truncated, nan = tmp_path / "truncated.gguf", tmp_path / "nan.gguf"
    truncated.write_bytes(good.read_bytes()[:-1000])

    def poison(name: str, data: Any) -> Any:
        if name == "blk.1.ffn_norm.weight":
            data[3] = float("nan")
        return data

    rewritten(good, nan, {}, poison)
    inputs = with_weights(tiny_text, ("F16", truncated), ("Q8_0", nan), ("F32", good))
    report, page = report_of(stage.Options(**FEW), inputs, tmp_path)
    first, second, third = report["outputs"]
    assert (first["status"], second["status"], third["status"]) == ("failed", "failed", "passed")
    assert "not within the file bounds" in first["reason"]
    assert "the candidate's logits are not finite" in second["reason"]
    assert second["contract"]["tokens"]["equal"] == second["contract"]["tokens"]["total"]
    assert "2 of 3 outputs did not pass" in page


def test_a_runtime_that_is_not_there_is_never_a_pass(
    tiny_text: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes.load("llama_cpp"), "available", lambda: "xllamacpp is not installed: pip install it")
    report, page = report_of(stage.Options(**FEW), tiny_text, tmp_path)
    assert {row["status"] for row in report["outputs"]} == {"not_run"}
    assert "NOT RUN" in page
    assert "pip install" in report["outputs"][0]["reason"]
    assert not report["outputs"][0]["neutral"]
    assert Result(tmp_path, {}, (), report).exit_code == 3


def test_a_source_that_does_not_run_is_an_error(tiny_text: dict[str, Bundle], tmp_path: Path) -> None:
    source = tiny_text["source"].with_(weights=())
    with pytest.raises(StageError, match="transformers could not load"):
        report_of(stage.Options(**FEW), tiny_text | {"source": source}, tmp_path)


def test_images_and_clicks(tiny_vision: dict[str, Bundle], tmp_path: Path) -> None:
    for i in range(2):
        Image.fromarray(vision.drawing(112 + 28 * i, 84)).save(tmp_path / f"{i}.png")
    clicks = tmp_path / "clicks.jsonl"
    rows = [{"image": f"{i}.png", "instruction": "Click the red button.", "box": [0, 0, 9, 9]} for i in range(2)]
    clicks.write_text("\n".join(map(json.dumps, rows)))
    options = stage.Options(clicks=clicks, images=[tmp_path / "0.png"], **FEW)
    assert {path.name for path in stage.reads(options)} == {"clicks.jsonl", "0.png", "1.png"}
    report, page = report_of(options, tiny_vision, tmp_path)
    (row,) = report["outputs"]
    assert row["status"] == "passed", row["reason"]
    assert [image["name"] for image in row["vision"]["images"]] == ["0.png", "our drawing"]
    assert row["metrics"]["image_cosine_unresized"] > 0.9999
    assert row["vision"]["clicks"]["tasks"] == 2
    assert row["metrics"]["image_top1"] == 1.0
    assert row["metrics"]["click_drop"] == 0.0
    assert "Vision" in page


def test_a_vision_model_without_projector_says_so(tiny_vision: dict[str, Bundle], tmp_path: Path) -> None:
    inputs = tiny_vision | {"gguf": tiny_vision["gguf"].with_(projector=())}
    report, page = report_of(stage.Options(**FEW), inputs, tmp_path)
    assert report["outputs"][0]["vision"]["reason"] == "no projector was made beside this file"
    assert "no projector was made beside this file" in page


def test_one_zeroed_tensor_of_a_projector_is_no_pass(tiny_vision: dict[str, Bundle], tmp_path: Path) -> None:
    (good,) = tiny_vision["gguf"].of(Role.PROJECTOR)
    blank = lambda name, data: data * 0 if name == "v.patch_embd.weight.1" else data  # noqa: E731
    path = rewritten(good.path, tmp_path / "mmproj.gguf", {}, blank)
    projector = Artifact("gguf/F16", path, path.stat().st_size, "0" * 64)
    inputs = tiny_vision | {"gguf": tiny_vision["gguf"].with_(projector=projector)}
    report, page = report_of(stage.Options(**FEW), inputs, tmp_path)
    assert report["outputs"][0]["status"] == "failed"
    assert "image_cosine_unresized" in report["outputs"][0]["reason"]
    assert "the projector file was made from this source" in page


def test_images_by_name_and_no_projector_is_no_pass(tiny_vision: dict[str, Bundle], tmp_path: Path) -> None:
    Image.fromarray(vision.drawing(112, 84)).save(tmp_path / "0.png")
    options = stage.Options(images=[tmp_path / "0.png"], **FEW)
    inputs = tiny_vision | {"gguf": tiny_vision["gguf"].with_(projector=())}
    (problem,) = stage.check(options, inputs)
    assert "images, but no stage makes a projector" in str(problem)
    report, page = report_of(options, inputs, tmp_path)
    assert report["outputs"][0]["status"] == "failed"
    assert "no projector was made" in report["outputs"][0]["reason"]
    assert "did not pass" in page.splitlines()[0]


def test_one_stage_without_a_projector_is_named_before_the_run(tiny_vision: dict[str, Bundle], tmp_path: Path) -> None:
    Image.fromarray(vision.drawing(112, 84)).save(tmp_path / "0.png")
    options = stage.Options(images=[tmp_path / "0.png"], **FEW)
    gguf = tiny_vision["gguf"]
    (weights,) = gguf.of(Role.WEIGHTS)
    other = gguf.with_(weights=(replace(weights, path=tmp_path / "other.gguf"),), projector=())
    (problem,) = stage.check(options, tiny_vision | {"weighted": other})
    assert "images, but stage 'weighted' makes no projector" in str(problem)
    assert stage.check(options, tiny_vision) == []


def test_a_format_without_a_place_for_images_is_not_asked_for_them(
    tiny_vision: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, why = registry.outputs, "this format holds the text decoder alone"
    monkeypatch.setattr(registry, "outputs", lambda *words: (replace(o, text_only=why) for o in real(*words)))
    Image.fromarray(vision.drawing(112, 84)).save(tmp_path / "0.png")
    inputs = tiny_vision | {"gguf": tiny_vision["gguf"].with_(projector=())}
    report, page = report_of(stage.Options(images=[tmp_path / "0.png"], **FEW), inputs, tmp_path)
    (row,) = report["outputs"]
    assert row["status"] == "passed", row["reason"]
    assert row["vision"]["reason"] == "this format holds the text decoder alone"
    assert "this format holds the text decoder alone" in page


def test_a_text_of_a_few_words_is_no_text_to_measure_on(tiny_text: dict[str, Bundle], tmp_path: Path) -> None:
    for i, words in enumerate(("", " \n", "one two")):
        (tmp_path / "text.txt").write_text(words)
        with pytest.raises(StageError, match="at least 16" if words.strip() else "has no text in it"):
            report_of(stage.Options(text=tmp_path / "text.txt"), tiny_text, tmp_path / str(i))


def test_one_model_is_in_memory_at_a_time(
    tiny_text: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each output is closed before the next is opened, and a large source has given its weights back by then."""
    seen, opened = list[tuple[int, int]](), list[Any]()
    real_open, held = compare.open_session, list[Any]()
    real_prepare = compare._prepare

    def prepare(comparison: Any, asking: Any) -> None:
        held.append(comparison.reference._session)
        real_prepare(comparison, asking)

    def open_one(*args: Any, **options: Any) -> Any:
        session = real_open(*args, **options)
        alive = sum(one._process.poll() is None for one in opened)
        seen.append((alive, held[0].bytes_held))
        opened.append(session)
        return session

    monkeypatch.setattr(compare, "STAYS_BYTES", 0)
    monkeypatch.setattr(compare, "_prepare", prepare)
    monkeypatch.setattr(compare, "open_session", open_one)
    rows, _ = report_of(stage.Options(**FEW), tiny_text, tmp_path)
    assert seen == [(0, 0)] * len(rows["outputs"])
    assert len(seen) > 1


# ---- before anything runs


def test_check_names_everything_that_is_wrong(tiny_text: dict[str, Bundle], tmp_path: Path) -> None:
    clicks = tmp_path / "clicks.jsonl"
    clicks.write_text("{")
    options = stage.Options(text=tmp_path / "none.txt", clicks=clicks, limits={"Q8_1": {"kl_mean": 1}})
    problems = list(map(str, stage.check(options, tiny_text)))
    assert len(problems) == 4
    assert "none.txt" in problems[0]
    assert "clicks.jsonl:1" in problems[1]
    assert "clicks for a model that takes no images" in problems[2]
    assert "did you mean 'Q8_0'?" in problems[3]
    assert stage.check(stage.Options(limits={"gguf/F32": {}, "*": {}, "gguf": {}}), tiny_text) == []


def test_a_text_and_an_image_that_are_none_are_problems(tiny_text: dict[str, Bundle], tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"\xff\xfe not text, not an image")
    assert "not UTF-8" in str(stage.check(stage.Options(text=path), tiny_text)[0])
    assert "not an image" in str(stage.check(stage.Options(images=[path]), tiny_text)[0])


LONGROPE = {"original_max_position_embeddings": 128, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}


@pytest.mark.parametrize(
    ("words", "window"),
    [
        ({}, 512),
        ({"original_max_position_embeddings": 128}, 128),
        ({"max_position_embeddings": 64}, 64),
        ({"rope_scaling": {**LONGROPE, "rope_type": "longrope"}}, 128),
        ({"rope_scaling": {**LONGROPE, "type": "longrope"}}, 128),
        ({"rope_parameters": {**LONGROPE, "rope_type": "longrope", "rope_theta": 10000.0}}, 128),
        ({"rope_scaling": YARN}, 512),  # the same at every length
    ],
)
def test_a_window_is_no_longer_than_what_the_model_was_made_for(
    words: dict[str, Any], window: int, tmp_path: Path
) -> None:
    bundle = source.forecast(source.Options(path=tiny.tiny_llama(tmp_path / "tiny", layers=1, **words)), {})
    assert window_of(stage.Options(window=30_000), bundle) == window
    assert window_of(stage.Options(window=32), bundle) == 32


def test_nothing_to_validate_is_a_problem(tiny_text: dict[str, Bundle]) -> None:
    (problem,) = stage.check(stage.Options(), {"source": tiny_text["source"]})
    assert "no stage makes an output" in str(problem)


def test_an_unknown_metric_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="no metric 'kl_maen'; did you mean 'kl_mean'"):
        stage.Options(limits={"F16": {"kl_maen": 1.0}})


def test_plan_can_say_what_will_be_asked(tiny_text: dict[str, Bundle]) -> None:
    lines = stage.explain(stage.Options(limits={"F32": {"kl_mean": 1e-9}}), tiny_text)
    assert "kl_mean <= 1e-09 (recipe)" in lines[0]
    forecast = stage.forecast(stage.Options(), tiny_text)
    assert {a.path.name for a in forecast.of(Role.REPORT)} == NAMES


def test_the_reference_sees_the_bundles_files_and_no_others(tiny_text: dict[str, Bundle], tmp_path: Path) -> None:
    source = tiny_text["source"]
    home = source.of(Role.CONFIG)[0].path.parent
    (home / "pytorch_model.bin").write_bytes(b"not this one")
    (home / "evil.py").write_text("raise SystemExit")
    try:
        link_files(source, tmp_path, code=False)
    finally:
        (home / "pytorch_model.bin").unlink()
        (home / "evil.py").unlink()
    names = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not names & {"pytorch_model.bin", "evil.py"}


def test_a_file_handed_on_by_a_second_stage_makes_no_second_row(tiny_text: dict[str, Bundle]) -> None:
    twice = tiny_text | {"copy": replace(tiny_text["gguf"])}
    assert [t.stage for t in outputs(twice)] == ["gguf", "gguf"]


def test_a_source_larger_than_the_machine_is_a_problem(
    tiny_text: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "total_bytes", lambda: 1000)
    (problem,) = stage.check(stage.Options(), tiny_text)
    assert "GB of memory" in str(problem)
    assert "on a machine with more" in str(problem)


def test_split_weights_are_one_row_and_the_first_file_is_run(tiny_text: dict[str, Bundle], tmp_path: Path) -> None:
    names = [f"Tiny-Q8_0-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    files = tuple(Artifact("gguf/Q8_0", tmp_path / name, size) for name, size in zip(names, (10, 20, 30), strict=True))
    whole = Artifact("gguf/F16", tmp_path / "Tiny-F16.gguf", 7)
    inputs = tiny_text | {"gguf": tiny_text["gguf"].with_(weights=(*files, whole))}
    split, other = outputs(inputs)
    assert (split.weights, split.weights_size) == (files[0], 60)
    assert (other.weights, other.weights_size) == (whole, 7)


def test_a_runtime_that_the_system_kills_is_no_measurement(
    tiny_text: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report that said "failed" would be taken for up to date; the next run has to measure again."""
    from validate.runtimes import _isolated

    real = _isolated.IsolatedSession.logits

    def killed(self: Any, tokens: Any) -> Any:
        self._process.kill()
        self._process.wait(20)
        return real(self, tokens)

    monkeypatch.setattr(_isolated.IsolatedSession, "logits", killed)
    out = tmp_path / "demo" / "validate.partial"
    out.mkdir(parents=True)
    with pytest.raises(StageError, match=r"SIGKILL.*run it again"):
        stage.run(stage.Options(**FEW), tiny_text, out, Silent())


@pytest.mark.parametrize("limit", [float("inf"), float("nan"), -0.1])
def test_a_limit_that_limits_nothing_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="a limit is a number from 0 on"):
        stage.Options(limits={"*": {"kl_mean": limit}})


def test_an_empty_text_is_found_before_the_run(tiny_text: dict[str, Bundle], tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    (problem,) = stage.check(stage.Options(text=tmp_path / "empty.txt", **FEW), tiny_text)
    assert "has no text in it" in str(problem)


# ---- rows of outputs that are several files


def several(stage_types: dict[str, list[str]]) -> dict[str, Bundle]:
    """Forecasts as the onnx and tensorrt stages make them."""
    source = Bundle(Model("tiny"), {Role.WEIGHTS: (Artifact("safetensors", Path("/m/model.safetensors"), 100),)})
    made = {"source": source}
    for name, kinds in stage_types.items():
        files = []
        for kind in kinds:
            format_, type_ = kind.split("/")
            home = Path("/out") / name
            main = "model.engine" if format_ == "tensorrt" else f"model{'' if type_ == 'fp32' else f'_{type_}'}.onnx"
            files.append(Artifact(kind, home / main, 10))
            if type_ != "fp32":
                part = "tensorrt-part" if format_ == "tensorrt" else "onnx-part"
                files.append(Artifact(f"{part}/{type_}", home / f"{main}_data", 20))
        if any(kind == "onnx/fp32" for kind in kinds):
            files.append(Artifact("onnx-part/shared", Path("/m/model.safetensors"), 100))
        made[name] = source.with_(weights=tuple(files))
    return made


def test_every_graph_that_gives_logits_is_a_row_and_its_files_count() -> None:
    inputs = several({"onnx": ["onnx/fp32", "onnx/fp16"], "genai": ["onnx-genai/int4"], "trt": ["tensorrt/fp16"]})
    rows = outputs(inputs)
    assert [row.label for row in rows] == ["onnx/fp32", "onnx/fp16", "genai/int4", "trt/fp16"]
    assert [row.weights_size for row in rows] == [110, 30, 30, 30]
    assert [file.path.name for file in rows[0].files] == ["model.onnx", "model.safetensors"]
    assert rows[2].text_only
    assert rows[1].names == ("*", "onnx", "fp16", "onnx/fp16")


def test_a_second_runtime_makes_a_second_row_of_what_it_runs() -> None:
    inputs = several({"onnx": ["onnx/fp32", "onnx/int4"], "genai": ["onnx-genai/int4"], "trt": ["tensorrt/fp32"]})
    rows = outputs(inputs, {"openvino": runtimes.load("openvino")})
    assert [row.label for row in rows] == [
        "onnx/fp32",
        "onnx/fp32@openvino",
        "onnx/int4",
        "onnx/int4@openvino",
        "genai/int4",
        "trt/fp32",
    ]
    limits = {"fp32": {"kl_mean": 1.0}, "fp32@openvino": {"kl_mean": 2.0}}
    options = stage.Options(limits=limits, also_on="openvino")
    found = [limits_of(options.limits, row)["kl_mean"] for row in rows[:2]]
    assert found == [(1.0, "recipe"), (2.0, "recipe")]
    problems = stage.check(stage.Options(limits={"fp16@openvino": {}}, also_on=["openvino"]), inputs)
    assert "did you mean 'int4@openvino'" in str(problems[0]) or "fp32@openvino" in str(problems[0])


def test_a_second_runtime_is_one_that_there_is_and_has_something_to_run(tiny_text: dict[str, Bundle]) -> None:
    with pytest.raises(
        ValueError,
        match=r"no second runtime 'openvin', only openvino, .*, vllm; did you mean 'openvino'",
    ):
        stage.Options(also_on="openvin")
    (problem,) = stage.check(stage.Options(also_on="openvino"), tiny_text)
    assert "runs no output of this recipe" in str(problem)


def test_two_files_of_one_name_have_two_labels() -> None:
    weights = Artifact("gguf/F16", Path("/a/tiny-F16.gguf"), 1)
    source = Bundle(Model("tiny"))
    other = replace(weights, path=Path("/b/tiny-F16.gguf"))
    rows = outputs({"source": source, "one": source.with_(weights=weights), "two": source.with_(weights=other)})
    assert [row.label for row in rows] == ["one/tiny-F16.gguf", "two/tiny-F16.gguf"]


def not_run(monkeypatch: pytest.MonkeyPatch, lack: str) -> None:
    monkeypatch.setattr(runtimes.load("llama_cpp"), "lacks", lambda: lack)


def test_what_this_machine_has_no_device_for_is_neither_passed_nor_failed(
    tiny_text: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_run(monkeypatch, "no CUDA device")
    report, page = report_of(stage.Options(**FEW), tiny_text, tmp_path)
    row = report["outputs"][0]
    assert (row["status"], row["neutral"], row["reason"]) == ("not_run", True, "built, not run: no CUDA device")
    assert Result(tmp_path, {}, (), report).exit_code == 0
    assert page.startswith("# demo: all 2 outputs were built and not run\n")
    assert f"**NOT RUN** `{row['label']}`: built, not run: no CUDA device" in page


@pytest.mark.parametrize("require", ["run", {"Q8_0": "run"}, {"gguf/Q8_0": "run"}])
def test_a_recipe_can_demand_that_an_output_is_run(
    require: Any, tiny_text: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_run(monkeypatch, "no CUDA device")
    report, _ = report_of(stage.Options(require=require, **FEW), tiny_text, tmp_path)
    first, second = report["outputs"]
    assert second["status"] == "failed"
    assert second["reason"] == "`require: run`, and built, not run: no CUDA device"
    assert first["status"] == ("failed" if require == "run" else "not_run")
    assert Result(tmp_path, {}, (), report).exit_code == 3


def test_a_demand_names_outputs_that_there_are(tiny_text: dict[str, Bundle]) -> None:
    (problem,) = stage.check(stage.Options(require={"Q8_1": "run"}), tiny_text)
    assert "require for 'Q8_1'" in str(problem)
    with pytest.raises(ValueError, match="require"):
        stage.Options(require={"Q8_0": "walk"})


def test_auto_reads_until_limits_are_decided_and_the_report_says_how_far(
    tiny_text: dict[str, Bundle], tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{i} Don't click the button {i * i} times, then wait. " for i in range(400)))
    limits = {"F32": {"kl_mean": 1e-9}, "Q8_0": {"kl_p999": 1.0}}  # which needs ten thousand positions
    options = stage.Options(text=text, limits=limits, tokens="auto", window=256, threads=1)
    report, page = report_of(options, tiny_text, tmp_path)
    exact, rounded = report["outputs"]
    (entry,) = report["texts"]
    assert "Of it each output read as many tokens as decide all its limits: 1 output after" in page
    assert (entry["source"], len(entry["tokens_sha256"])) == (text.name, 64)
    assert exact["reading"]["decided"]
    assert exact["metrics"]["positions"] == exact["reading"]["tokens"] == 2048
    assert (len(exact["windows"]), exact["reading"]["windows"]) == (8, 8)
    assert rounded["status"] == "passed", rounded["reason"]
    assert rounded["reading"]["tokens"] == entry["tokens"] > 4096
    assert rounded["reading"]["reason"] == f"every limit is decided after {entry['tokens']:,} tokens"
    assert len(report["ranking"]["groups"]) == 2  # on what both have read
    assert [row["status"] for row in report["outputs"]] == ["passed", "passed"]
