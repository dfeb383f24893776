"""The onnx stage as the pipeline uses it: what it writes, what it predicts, what it refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from pydantic import ValidationError

from convert.bundle import Artifact, Bundle, Model, Role
from convert.errors import ConvertError
from convert.formats.onnx.origin import origin
from convert.formats.onnx.stage import STAGE as stage
from convert.progress import Silent
from tests import tiny
from tests.fixtures_gguf import source_inputs
from tests.onnx.graphs import TextGraph, export, reference_logits

ALL = ("fp32", "fp16", "bf16", "int8", "int4")
TOKENS = np.random.default_rng(0).integers(3, 400, (1, 12))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_qwen2(tmp_path_factory.mktemp("source") / "Tiny", shards=3, layers=1)


@pytest.fixture(scope="module")
def several(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(source, tmp_path_factory.mktemp("several"), precision=ALL)


@pytest.fixture(scope="module")
def own(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(source, tmp_path_factory.mktemp("own"), weights="own")


def files(bundle: Bundle, *roles: Role) -> dict[str, Artifact]:
    return {a.path.name: a for role in roles or tuple(Role) for a in bundle.of(role)}


def home(bundle: Bundle) -> Path:
    return bundle.of(Role.WEIGHTS)[0].path.parent


# ---- the folder


def test_every_precision_is_made_of_one_trace_under_transformers_js_names(several: Bundle) -> None:
    weights = {name: a.kind for name, a in files(several, Role.WEIGHTS).items()}
    assert weights == {
        "model.onnx": "onnx/fp32",
        "model_fp16.onnx": "onnx/fp16",
        "model_fp16.onnx_data": "onnx-part/fp16",
        "model_bf16.onnx": "onnx/bf16",
        "model_int8.onnx": "onnx/int8",
        "model_int8.onnx_data": "onnx-part/int8",
        "model_q4.onnx": "onnx/int4",
        "model_q4.onnx_data": "onnx-part/int4",
        **{f"model-0000{i}-of-00003.safetensors": "onnx-part/shared" for i in (1, 2, 3)},
        "model.safetensors.index.json": "onnx-part/shared",
    }


def test_what_is_in_the_bundle_is_what_is_in_the_folder(several: Bundle) -> None:
    there = {path.name: path.stat().st_size for path in home(several).rglob("*") if path.is_file()}
    assert {name: a.size for name, a in files(several).items()} == there


def test_graphs_say_what_they_are_made_of(several: Bundle) -> None:
    for precision, suffix in zip(ALL, ("", "_fp16", "_bf16", "_int8", "_q4"), strict=True):
        model = onnx.load(home(several) / f"model{suffix}.onnx", load_external_data=False)
        said = {entry.key: entry.value for entry in model.metadata_props}
        assert model.producer_name == "convert"
        assert (said["convert.precision"], said["convert.model"]) == (precision, "Tiny")
        domains = {o.domain: o.version for o in model.opset_import}
        assert domains == {"": 20} | ({"com.microsoft": 1} if precision == "int4" else {})
        assert not model.graph.value_info  # shapes inside are each runtime's to find


def test_a_graph_names_the_step_that_made_it() -> None:
    bundle = Bundle(Model("Tiny", "us/Tiny", "c0ffee"))
    assert origin(bundle, "fp16", "f00d") == {
        "convert.precision": "fp16",
        "convert.key": "f00d",
        "convert.model": "Tiny",
        "convert.source": "us/Tiny",
        "convert.revision": "c0ffee",
    }


def test_the_folder_is_a_checkpoint_for_transformers_too(source: Path, several: Bundle) -> None:
    assert np.array_equal(reference_logits(home(several), TOKENS), reference_logits(source, TOKENS))


def test_companions_are_copies_of_the_sources(source: Path, several: Bundle) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        copy = files(several)[name].path
        assert copy.parent == home(several)
        assert copy.read_bytes() == (source / name).read_bytes()
        assert not copy.samefile(source / name)


def test_own_weights_need_nothing_beside_them_and_give_the_same_numbers(
    source: Path, several: Bundle, own: Bundle
) -> None:
    made = files(own, Role.WEIGHTS)
    assert {name: a.kind for name, a in made.items()} == {
        "model.onnx": "onnx/fp32",
        "model.onnx_data": "onnx-part/fp32",
    }
    assert made["model.onnx_data"].size > sum(p.stat().st_size for p in source.glob("*.safetensors")) * 1.9
    onnx.checker.check_model(str(made["model.onnx"].path))  # as everybody calls it, on files with one name
    shared, _ = TextGraph(home(several) / "model.onnx")(TOKENS)
    assert np.array_equal(TextGraph(home(own) / "model.onnx")(TOKENS)[0], shared)


def test_equal_inputs_give_equal_bytes(source: Path, several: Bundle, tmp_path: Path) -> None:
    again = export(source, tmp_path / "again", precision=ALL)
    for name, artifact in files(several).items():
        assert files(again)[name].path.read_bytes() == artifact.path.read_bytes(), name


def test_openvino_reads_the_shared_weights(source: Path, several: Bundle) -> None:
    import openvino

    compiled = openvino.Core().compile_model(
        home(several) / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    )
    graph = TextGraph(home(several) / "model.onnx")
    ones, positions = np.ones_like(TOKENS), np.arange(TOKENS.shape[1])[None]
    feeds = {"input_ids": TOKENS, "attention_mask": ones, "position_ids": positions, **graph.empty(1)}
    assert np.abs(compiled(feeds)["logits"] - graph(TOKENS)[0]).max() < 1e-3


def test_qwen2_5_vl_is_three_graphs_and_a_helper(tmp_path: Path) -> None:
    from validate.runtimes import _qwen2_5_vl_inputs as helper

    folder = tiny.tiny_qwen2_5_vl(tmp_path / "Tiny")
    bundle = export(folder, tmp_path / "out")
    assert {name: a.kind for name, a in files(bundle, Role.WEIGHTS, Role.PROJECTOR).items()} == {
        "decoder_model_merged.onnx": "onnx/fp32",
        "embed_tokens.onnx": "onnx-part/fp32",
        "vision_encoder.onnx": "onnx/fp32",
        "model.safetensors": "onnx-part/shared",
    }
    assert [a.path.name for a in bundle.of(Role.PROJECTOR)] == ["vision_encoder.onnx"]
    shipped = tmp_path / "out" / "qwen2_5_vl_inputs.py"
    assert shipped.read_bytes() == Path(helper.__file__).read_bytes()


# ---- the forecast


@pytest.mark.parametrize("options", [{"precision": ALL}, {"weights": "own"}])
def test_the_forecast_names_the_files_and_is_close(
    options: dict[str, Any], source: Path, several: Bundle, own: Bundle
) -> None:
    predicted = stage.forecast(stage.Options(layout="flat", **options), source_inputs(source))
    made = own if "weights" in options else several
    assert {r: [a.path.name for a in predicted.of(r)] for r in Role} == {
        r: [a.path.name for a in made.of(r)] for r in Role
    }
    assert [a.kind for _, a in predicted.artifacts()] == [a.kind for _, a in made.artifacts()]
    for name, artifact in files(made).items():
        guess = files(predicted)[name].size
        assert abs(guess - artifact.size) <= max(0.15 * artifact.size, 40_000), name


def test_shared_files_are_forecast_where_they_lie_for_they_take_no_space(source: Path) -> None:
    words = stage.Options(layout="flat")
    predicted = stage.forecast(words, source_inputs(source))
    shared = [a for a in predicted.of(Role.WEIGHTS) if a.path.suffix == ".safetensors"]
    assert [a.path for a in shared] == sorted(source.glob("*.safetensors"))
    assert any("shared with the checkpoint" in line for line in stage.explain(words, source_inputs(source)))


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "'fp8' is not one of fp32, fp16, bf16, int8, int4"),
        ({"precision": ["fp16", "fp16"]}, "names a precision twice"),
        ({"precision": []}, "names no precision"),
        ({"keep_fp32": ["("]}, "is not a regular expression"),
        ({"block_size": 48}, "not a power of two"),
        ({"block_size": 512}, "less than or equal to 256"),
        ({"opset": 17}, "Input should be 20"),
        ({"weights": "linked"}, "'shared' or 'own'"),
        ({"flavour": "genai"}, "Extra inputs are not permitted"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        stage.Options(**options)


def test_options_that_would_do_nothing_are_problems(source: Path) -> None:
    found = stage.check(stage.Options(precision="fp16", block_size=64, symmetric=False), source_inputs(source))
    assert [problem.where for problem in found] == ["block_size", "symmetric"]


def test_inputs_that_are_no_checkpoint(source: Path) -> None:
    inputs = source_inputs(source)
    gguf = inputs["source"].with_(weights=Artifact("gguf/F16", Path("x.gguf"), 1))
    assert "stage 'q' gives gguf weights" in str(stage.check(stage.Options(), {"q": gguf})[0])
    assert "takes from 2 stages" in str(stage.check(stage.Options(), inputs | {"other": gguf})[0])


def test_a_graph_that_torch_cannot_make_leaves_no_files(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from convert.formats.onnx import hollow

    def refuse(*args: object) -> None:
        raise ValueError("its attention takes s_aux")

    monkeypatch.setattr(hollow, "_softmax", refuse)
    with pytest.raises(ConvertError, match="its attention takes s_aux"):
        stage.run(stage.Options(), source_inputs(source), tmp_path, Silent())
    assert list(tmp_path.iterdir()) == []


def test_the_order_of_precisions_changes_no_byte(tmp_path: Path) -> None:
    """Each is made from the traced graph, not from what the one before left of it; float32 weights need no Cast."""
    folder = tiny.tiny_llama(tmp_path / "Tiny", dtype="float32", layers=1)
    order = ("fp16", "int8", "int4")
    made = [export(folder, tmp_path / words[0], precision=words) for words in (order, order[::-1])]
    for name, artifact in files(made[0]).items():
        assert files(made[1])[name].path.read_bytes() == artifact.path.read_bytes(), name
    table = folder.joinpath("model.safetensors").stat().st_size
    assert files(made[0])["model_q4.onnx_data"].size < table / 2
