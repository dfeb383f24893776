"""What files an export has in each layout, and that whoever reads folders of graphs finds them there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from convert.bundle import Bundle, Role
from convert.formats.existing_stage import STAGE as existing
from convert.formats.onnx import FORMAT
from convert.formats.onnx.layouts import dtype
from convert.formats.onnx.stage import STAGE as stage
from convert.formats.tensorrt.graphs import read_graph
from tests import tiny
from tests.fixtures_gguf import source_inputs
from tests.onnx.graphs import export
from validate.runtimes import onnxruntime

SEVERAL = ("fp32", "fp16", "int8", "int4")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_qwen2(tmp_path_factory.mktemp("source") / "Tiny", layers=1)


@pytest.fixture(scope="module")
def hub(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(source, tmp_path_factory.mktemp("hub"), layout="hub", precision=SEVERAL)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("images")
    export(tiny.tiny_qwen2_5_vl(home / "Tiny"), home / "out", layout="hub", precision="fp16")
    return home / "out"


def home(bundle: Bundle) -> Path:
    return bundle.of(Role.CONFIG)[0].path.parent


def inside(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.onnx*") if path.is_file()}


def axes(graph: Path) -> dict[str, list[str | int]]:
    """The axes of inputs and outputs, as the file has them."""
    model = onnx.load(graph, load_external_data=False).graph
    each = (*model.input, *model.output)
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in each}


def test_the_hubs_files_are_named_by_dtype_in_a_folder_of_their_own(hub: Bundle) -> None:
    graphs = {f"onnx/model{suffix}.onnx" for suffix in ("", "_fp16", "_quantized", "_q4")}
    assert inside(home(hub)) == graphs | {f"{graph}_data" for graph in graphs}
    assert (home(hub) / "tokenizer.json").is_file()
    assert not list(home(hub).rglob("*.safetensors"))


def test_the_hubs_forecast_names_the_same_files(source: Path, hub: Bundle) -> None:
    predicted = stage.forecast(stage.Options(precision=SEVERAL), source_inputs(source))
    named = [a.path.as_posix() for a in predicted.of(Role.WEIGHTS)]
    assert named == [a.path.relative_to(home(hub)).as_posix() for a in hub.of(Role.WEIGHTS)]


def test_axes_and_outputs_have_the_names_that_transformers_js_reads(hub: Bundle, images: Path) -> None:
    said = axes(home(hub) / "onnx" / "model.onnx")
    assert said["input_ids"] == ["batch_size", "sequence_length"]
    assert said["past_key_values.0.key"][0::2] == ["batch_size", "past_sequence_length"]
    assert said["present.0.key"][0::2] == ["batch_size", "total_sequence_length"]
    assert "image_features" in axes(images / "onnx" / "vision_encoder_fp16.onnx")
    assert set(read_graph(home(hub) / "onnx" / "model.onnx").axes) == {"batch", "sequence", "total", "past"}


def test_a_vision_models_parts_have_the_suffix_also_alone(images: Path) -> None:
    parts = {f"onnx/{part}_fp16.onnx" for part in ("decoder_model_merged", "embed_tokens", "vision_encoder")}
    assert parts <= inside(images)


def test_optimums_names_lie_beside_the_config(source: Path, tmp_path: Path) -> None:
    export(source, tmp_path / "one", layout="optimum", precision="int8")
    export(source, tmp_path / "two", layout="optimum", precision=("fp32", "int8"))
    assert inside(tmp_path / "one") == {"model.onnx", "model.onnx_data"}
    assert {"model.onnx", "model_quantized.onnx"} < inside(tmp_path / "two")


def test_runtimes_find_tokenizer_and_config_above_the_folder(hub: Bundle, images: Path) -> None:
    with onnxruntime.RUNTIME.open(home(hub) / "onnx" / "model_q4.onnx", threads=1) as session:
        assert session.detokenize(session.tokenize("hello")) == "hello"
    with onnxruntime.RUNTIME.open(images / "onnx" / "decoder_model_merged_fp16.onnx", threads=1) as session:
        assert session.image_embeddings(np.zeros((56, 56, 3), np.uint8)).shape == (4, 64)


@pytest.mark.parametrize("named", ["", "onnx", "onnx/model_quantized.onnx"])
def test_a_repository_of_the_hub_is_taken_by_its_folder_or_by_a_graph(named: str, hub: Bundle) -> None:
    bundle: Any = existing.forecast(existing.Options(path=home(hub) / named), {"source": hub})
    types = {artifact.type for artifact in bundle.of(Role.WEIGHTS)}
    assert types == ({"int8"} if named.endswith(".onnx") else {"fp32", "fp16", "int8", "int4"})
    assert bundle.of(Role.TOKENIZER)[0].path.parent == home(hub)
    (output, *_) = FORMAT.outputs("a", bundle)
    assert {h.name: h.got for h in FORMAT.hyperparameters(output, home(hub))}["hidden_size"] == 64


@pytest.mark.parametrize(
    ("file", "word"),
    [
        ("onnx/model.onnx", "fp32"),
        ("model_quantized.onnx", "q8"),
        ("model_int8.onnx", "int8"),
        ("decoder_model_merged_q4f16.onnx", "q4f16"),
        ("model_q4.onnx", "q4"),
    ],
)
def test_a_dtype_is_told_by_the_files_name(file: str, word: str) -> None:
    assert dtype(file) == word
