"""The gguf stage as the pipeline uses it: what it writes, what it predicts, what it refuses."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from convert.bundle import Artifact, Bundle, Model, Role
from convert.errors import ConvertError
from convert.formats.gguf.conversion import ConversionSettings, prepare
from convert.formats.gguf.stage import STAGE as stage
from convert.formats.gguf.writer import write_files
from convert.progress import Silent
from quantize.mixes import MIXES
from tests import tiny
from tests.fixtures_gguf import (
    LLAMA3_ROPE,
    convert,
    digests,
    edit_config,
    edit_weights,
    golden_checkpoints,
    read_gguf,
    source_inputs,
)

ALL = tuple(MIXES)
CONVERTERS = ("F32", "F16", "BF16", "Q8_0")  # what llama.cpp's converter writes; the others are llama-quantize's
GOLDEN = json.loads((Path(__file__).parent / "golden_peer.json").read_text())


def problems(folder: Path, *types: str, **options: Any) -> str:
    found = stage.check(stage.Options(types=list(types or ("F16",)), **options), source_inputs(folder))
    return "\n".join(map(str, found))


def hashes(bundle: Bundle) -> dict[str, str]:
    return {a.path.name: a.sha256 for _, a in bundle.artifacts() if a.format == "gguf"}


# ---- equal to llama.cpp's converter


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return golden_checkpoints(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "qwen3_moe", "vl"])
@pytest.mark.parametrize("kind", CONVERTERS)
def test_tensors_equal_those_of_llama_cpps_converter(
    golden: dict[str, Path], name: str, kind: str, tmp_path: Path
) -> None:
    """Names, order, shapes, types and bytes; the table was written by tests/peer_compare.py."""
    options = {"mmproj": kind} if name == "vl" else {}
    bundle = convert(golden[name], tmp_path, kind, **options)
    (weights,) = bundle.of(Role.WEIGHTS)
    assert list(digests(weights.path).items()) == list(GOLDEN[f"{name} {kind}"].items())
    for projector in bundle.of(Role.PROJECTOR):
        assert list(digests(projector.path).items()) == list(GOLDEN[f"{name} mmproj {kind}"].items())
    assert bool(bundle.of(Role.PROJECTOR)) == (name == "vl")


# ---- names, sizes, one pass


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_qwen2_5_vl(tmp_path_factory.mktemp("vl") / "Tiny-VL", shards=3)


def test_files_are_named_as_on_the_hub_and_companions_travel(seeing: Path, tmp_path: Path) -> None:
    bundle = convert(seeing, tmp_path, "F16", "Q8_0")
    assert [a.path.name for a in bundle.of(Role.WEIGHTS)] == ["Tiny-VL-F16.gguf", "Tiny-VL-Q8_0.gguf"]
    assert [a.kind for a in bundle.of(Role.WEIGHTS)] == ["gguf/F16", "gguf/Q8_0"]
    assert [a.path.name for a in bundle.of(Role.PROJECTOR)] == ["mmproj-Tiny-VL-F16.gguf"]
    before = source_inputs(seeing)["source"]
    for role in (Role.TOKENIZER, Role.CONFIG, Role.PREPROCESSOR, Role.GENERATION, Role.CHAT_TEMPLATE):
        assert bundle.of(role) == before.of(role) != ()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(hashes(bundle))


def test_the_forecast_is_exact(seeing: Path, tmp_path: Path) -> None:
    options = stage.Options(types=list(ALL), mmproj="Q8_0", name="Other")
    predicted = stage.forecast(options, source_inputs(seeing))
    made = stage.run(options, source_inputs(seeing), tmp_path, Silent())
    sizes = {a.path.name: a.size for role in (Role.WEIGHTS, Role.PROJECTOR) for a in predicted.of(role)}
    assert sizes == {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert {r: [a.kind for a in f] for r, f in made.roles.items()} == {
        r: [a.kind for a in f] for r, f in predicted.roles.items()
    }


def test_the_forecast_needs_no_weights(tmp_path: Path) -> None:
    """Weights that will be made from pickles have names but no files yet; the config says how large it all gets."""
    folder = tiny.tiny_llama(tmp_path / "tiny", rope_scaling=LLAMA3_ROPE)
    options = stage.Options(types=list(ALL))
    full = stage.forecast(options, source_inputs(folder))
    source = source_inputs(folder)["source"].with_(weights=Artifact("safetensors", Path("model.safetensors"), 0))
    assert stage.check(options, {"source": source}) == []
    assert stage.forecast(options, {"source": source}).of(Role.WEIGHTS) == full.of(Role.WEIGHTS)


def test_several_types_in_one_pass_are_the_bytes_of_one_at_a_time(seeing: Path, tmp_path: Path) -> None:
    types = (*CONVERTERS, "Q4_0", "Q5_1", "Q4_K_M", "Q2_K")
    together = hashes(convert(seeing, tmp_path / "all", *types))
    for kind in types:
        alone = hashes(convert(seeing, tmp_path / kind, kind))
        assert alone.items() <= together.items()
    assert len(set(together.values())) == len(types) + 1


def test_hashes_are_of_what_is_on_the_disk(seeing: Path, tmp_path: Path) -> None:
    import hashlib

    for _, artifact in convert(seeing, tmp_path, "F16").artifacts():
        if artifact.format == "gguf":
            assert hashlib.sha256(artifact.path.read_bytes()).hexdigest() == artifact.sha256


def test_source_values_survive(tmp_path: Path) -> None:
    """F32 and BF16 files of a BF16 checkpoint hold exactly its numbers."""
    import torch
    from gguf.quants import dequantize
    from safetensors.torch import load_file

    folder = tiny.tiny_qwen3(tmp_path / "tiny")
    source = load_file(folder / "model.safetensors")
    for artifact in convert(folder, tmp_path / "out", "F32", "BF16").of(Role.WEIGHTS):
        _, tensors = read_gguf(artifact.path)
        got = dequantize(tensors["blk.1.ffn_down.weight"].data, tensors["blk.1.ffn_down.weight"].tensor_type)
        wanted = source["model.layers.1.mlp.down_proj.weight"].to(torch.float32).numpy()
        np.testing.assert_array_equal(got, wanted)


def test_progress_counts_the_bytes_of_the_checkpoint(seeing: Path, tmp_path: Path) -> None:
    class Counting(Silent):
        total = done = 0

        def start(self, what: str, total: int, unit: str = "B") -> None:
            self.total += total

        def advance(self, amount: int) -> None:
            self.done += amount

    progress = Counting()
    stage.run(stage.Options(types=["F16", "Q8_0"]), source_inputs(seeing), tmp_path, progress)
    size = sum(a.size for a in source_inputs(seeing)["source"].of(Role.WEIGHTS))
    assert progress.done == progress.total
    assert 0.9 * size < progress.total < size


def test_memory_is_a_few_chunks_whatever_the_models_size(tmp_path: Path) -> None:
    import torch

    folder = tiny.tiny_llama(tmp_path / "tiny", layers=1)
    edit_config(folder, intermediate_size=2**18)

    def grow(tensors: dict[str, Any]) -> None:
        for name, shape in {"gate": (2**18, 64), "up": (2**18, 64), "down": (64, 2**18)}.items():
            tensors[f"model.layers.0.mlp.{name}_proj.weight"] = torch.full(shape, 0.25, dtype=torch.bfloat16)

    edit_weights(folder, grow)
    text = prepare(source_inputs(folder)["source"], ConversionSettings(("F16", "Q8_0"))).text
    tracemalloc.start()
    written = sum(a.size for a in write_files(tmp_path, text, Silent()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert written > 150e6
    assert peak < 60e6


# ---- the projector


def test_the_projector_can_be_left_out(seeing: Path, tmp_path: Path) -> None:
    bundle = convert(seeing, tmp_path, "F16", mmproj=False)
    assert bundle.of(Role.PROJECTOR) == ()
    assert [path.name for path in tmp_path.iterdir()] == ["Tiny-VL-F16.gguf"]
    lines = list(stage.explain(stage.Options(types=["F16"], mmproj=False), source_inputs(seeing)))
    assert any("left out: " in line and "vision tower" in line for line in lines)


def test_a_projector_of_a_blind_model_is_refused(tmp_path: Path) -> None:
    assert "no vision tower" in problems(tiny.tiny_llama(tmp_path), mmproj="F16")


def test_a_vision_tower_without_image_settings_is_refused(tmp_path: Path) -> None:
    folder = tiny.tiny_qwen2_5_vl(tmp_path)
    (folder / "preprocessor_config.json").unlink()
    assert "image_mean is missing" in problems(folder)


# ---- other writers' layouts


def test_newer_tensor_names_and_nested_configs_give_the_same_tensors(tmp_path: Path) -> None:
    import transformers

    folder = tiny.tiny_qwen2_5_vl(tmp_path / "old")
    old = [digests(a.path) for _, a in convert(folder, tmp_path / "a", "F16").artifacts() if a.format == "gguf"]
    transformers.AutoConfig.from_pretrained(folder).save_pretrained(folder)
    edit_config(folder, architectures=["Qwen2_5_VLForConditionalGeneration"])
    edit_weights(
        folder,
        lambda tensors: {
            name.replace("visual.", "model.visual.", 1)
            if name.startswith("visual.")
            else name.replace("model.", "model.language_model.", 1): tensor
            for name, tensor in tensors.items()
        },
    )
    assert "rope_theta" not in json.loads((folder / "config.json").read_text())
    new = [digests(a.path) for _, a in convert(folder, tmp_path / "b", "F16").artifacts() if a.format == "gguf"]
    assert new == old


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_checkpoints_of_other_float_types(dtype: str, tmp_path: Path) -> None:
    from gguf.quants import dequantize

    folder = tiny.tiny_llama(tmp_path / "tiny", dtype=dtype)
    (f32, f16, *_) = convert(folder, tmp_path / "out", "F32", "F16", "BF16", "Q8_0").of(Role.WEIGHTS)
    a, b = (read_gguf(artifact.path)[1]["token_embd.weight"] for artifact in (f32, f16))
    values = dequantize(a.data, a.tensor_type)
    np.testing.assert_array_equal(values.astype(np.float16), b.data.view(np.float16).reshape(values.shape))


# ---- refused


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    folder = tiny.tiny_llama(tmp_path)
    edit_config(folder, num_attention_heads=0, rms_norm_eps="x", rope_scaling={"type": "su"})
    found = problems(folder)
    for word in ("num_attention_heads", "rms_norm_eps", "type is 'su'"):
        assert word in found


def test_a_config_that_disagrees_with_the_weights_names_the_tensor(tmp_path: Path) -> None:
    folder = tiny.tiny_llama(tmp_path)
    edit_config(folder, intermediate_size=96)
    found = problems(folder)
    wanted = "model.layers.0.mlp.up_proj.weight [128, 64] where it says [96, 64]"
    assert wanted in found


@pytest.mark.parametrize("kind", ["missing", "unknown", "integers", "twice"])
def test_the_ledger_counts(kind: str, tmp_path: Path) -> None:
    import torch

    folder = tiny.tiny_qwen2_5_vl(tmp_path / "tiny")

    def change(tensors: dict[str, Any]) -> None:
        if kind == "missing":
            del tensors["visual.merger.mlp.2.weight"]
        elif kind == "unknown":
            tensors["model.layers.0.mlp.experts.weight"] = torch.zeros(2, 2)
        elif kind == "integers":
            tensors["model.norm.weight"] = torch.zeros(64, dtype=torch.int8)
        else:
            tensors["model.language_model.norm.weight"] = tensors["model.norm.weight"].clone()

    edit_weights(folder, change)
    found = problems(folder)
    named = {
        "missing": "lacks visual.merger.mlp.2.weight",
        "unknown": "has unknown tensors: model.layers.0.mlp.experts.weight",
        "integers": "holds model.norm.weight of I8",
        "twice": "model.norm.weight and model.language_model.norm.weight are two names",
    }[kind]
    assert named in found
    with pytest.raises(ConvertError):
        stage.run(stage.Options(types=["F16"]), source_inputs(folder), tmp_path, Silent())
    assert not list(tmp_path.glob("*.gguf"))


def test_a_tied_copy_of_the_embedding_is_left_out_only_when_it_is_one(tmp_path: Path) -> None:
    folder = tiny.tiny_llama(tmp_path / "tiny", tied=True)
    plain = hashes(convert(folder, tmp_path / "plain", "F16"))

    def copy(tensors: dict[str, Any]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    edit_weights(folder, copy)
    assert hashes(convert(folder, tmp_path / "copied", "F16")) == plain

    def differ(tensors: dict[str, Any]) -> None:
        tensors["lm_head.weight"][-1, -1] += 1

    edit_weights(folder, differ)
    with pytest.raises(
        ConvertError, match=r"lm_head.weight: differs from model.embed_tokens.weight.*tie_word_embeddings"
    ):
        convert(folder, tmp_path / "differ", "F16")
    assert not list((tmp_path / "differ").iterdir())


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        (float("nan"), "F32", "nan at [5, 7]"),
        (float("-inf"), "BF16", "-inf at [5, 7]"),
        (1e5, "F16", "at [5, 7] is too large for F16"),
        (2e7, "Q8_0", "at [5, 7] is too large for Q8_0"),
    ],
)
def test_numbers_no_file_can_hold_are_named_by_place(
    value: float, kind: str, said: str, shards: int, tmp_path: Path
) -> None:
    folder = tiny.tiny_llama(tmp_path / "tiny", dtype="bfloat16" if shards == 1 else "float32")

    def poison(tensors: dict[str, Any]) -> None:
        tensors["model.layers.1.mlp.gate_proj.weight"][5, 7] = value

    edit_weights(folder, poison)
    with pytest.raises(ConvertError) as caught:
        convert(folder, tmp_path / "out", kind)
    assert said in str(caught.value)
    assert "model.layers.1.mlp.gate_proj.weight" in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_large_numbers_fit_the_types_that_hold_them(tmp_path: Path) -> None:
    folder = tiny.tiny_llama(tmp_path / "tiny", layers=1)

    def enlarge(tensors: dict[str, Any]) -> None:
        tensors["model.layers.0.mlp.gate_proj.weight"][5, 7] = 1e5

    edit_weights(folder, enlarge)
    convert(folder, tmp_path / "out", "F32", "BF16", "Q8_0")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"types": ["F15"]}, "did you mean F1"),
        ({"types": ["IQ2_XL"]}, "did you mean IQ2_XS?"),
        ({"types": ["q8_0"]}, "did you mean Q8_0?"),
        ({"types": ["banana"]}, "is not a type that is written here; `convert stages` lists all"),
        ({"types": []}, "neither types nor fit, wanted one of them"),
        ({"types": ["F16"], "mmproj": "Q4"}, "wanted F32, F16, BF16, Q8_0 or false"),
        (
            {"types": ["F16"], "mmproj": True},
            "^1 validation error(.|\n)*True is not a type for a projector, wanted F32, F16, BF16, Q8_0 or false",
        ),
        ({"types": ["F16"], "name": "../x"}, "pattern"),
        ({"types": ["F16"], "typs": 1}, "Extra inputs"),
    ],
)
def test_words_of_a_recipe_are_checked(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said.replace("?", r"\?")):
        stage.Options.model_validate(options)


def test_it_takes_one_checkpoint(tmp_path: Path) -> None:
    inputs = source_inputs(tiny.tiny_llama(tmp_path / "tiny"))
    made = {"a": inputs["source"].with_(weights=Artifact("gguf/F16", tmp_path / "a.gguf", 9))}
    options = stage.Options(types=["F16"])
    (found,) = stage.check(options, made)
    assert str(found) == (
        "gguf: stage 'a' gives gguf weights, wanted a safetensors checkpoint; "
        "set `from:` to source, or to a stage that makes a checkpoint"
    )
    (found,) = stage.check(options, inputs | made)
    assert str(found) == "gguf: takes from 2 stages: source, a, wanted one; name one in `from:`"


def test_a_folder_without_config_is_a_problem_not_an_exception() -> None:
    assert stage.check(stage.Options(types=["F16"]), {"source": Bundle(Model("x"))})
