"""A GGUF file as a source: other types of it are the bytes that the checkpoint itself would have become."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from gguf.quants import dequantize

from convert.bundle import Artifact, Role
from convert.cli import main
from convert.formats.gguf.imatrix import Imatrix, ImatrixEntry, write_imatrix
from convert.formats.gguf.stage import STAGE as stage
from convert.progress import Silent
from convert.source.stage import STAGE as source
from convert.source.stage import SourceOptions
from tests import tiny
from tests.fixtures_gguf import convert, read_gguf, source_inputs
from tests.parity.families import cases


def inputs(path: Path, **options: Any) -> dict[str, Any]:
    asked = SourceOptions(path=path, **options)
    assert source.check(asked, {}) == []
    return {"source": source.forecast(asked, {})}


def again(path: Path, out: Path, *types: str, **options: Any) -> list[Path]:
    """The stage as a pipeline runs it, on a file."""
    words, given = stage.Options(types=list(types), **options), inputs(path)
    assert [str(p) for p in stage.check(words, given)] == []
    out.mkdir()
    made = stage.run(words, given, out, Silent()).of(Role.WEIGHTS)
    assert [a.size for a in stage.forecast(words, given).of(Role.WEIGHTS)] == [a.path.stat().st_size for a in made]
    return [artifact.path for artifact in made]


@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "gemma3"])
def test_from_16_bits_it_is_the_file_of_the_checkpoint(family: str, tmp_path: Path) -> None:
    """Byte for byte, metadata and tokenizer too; in whichever order fields stand."""
    folder = cases()[family].make(tmp_path / "Tiny")
    types = ("Q4_K_M", "Q8_0", "F32")
    direct = convert(folder, tmp_path / "direct", "BF16", *types, mmproj=False).of(Role.WEIGHTS)
    made = again(direct[0].path, tmp_path / "again", *types)
    assert [path.name for path in made] == [a.path.name for a in direct[1:]]
    for ours, wanted in zip(made, direct[1:], strict=True):
        assert ours.read_bytes() == wanted.path.read_bytes()


def test_what_was_lost_does_not_come_back_unless_asked_for(tmp_path: Path) -> None:
    folder = tiny.tiny_llama(tmp_path / "Tiny")
    (first,) = convert(folder, tmp_path / "first", "Q8_0").of(Role.WEIGHTS)
    (problem,) = stage.check(stage.Options(types=["Q4_0"]), inputs(first.path))
    assert "holds 15 tensors of Q8_0, wanted F32, F16 or BF16" in str(problem)
    assert "allow_requantize: true" in problem.remedy
    (made,) = again(first.path, tmp_path / "again", "F32", allow_requantize=True)
    _, before = read_gguf(first.path)
    _, after = read_gguf(made)
    for name, tensor in after.items():
        wanted = dequantize(before[name].data, before[name].tensor_type)
        np.testing.assert_array_equal(tensor.data, wanted.reshape(tensor.data.shape))


def test_a_matrix_of_importance_counts(tmp_path: Path) -> None:
    folder = tiny.tiny_llama(tmp_path / "Tiny")
    (first,) = convert(folder, tmp_path / "first", "BF16").of(Role.WEIGHTS)
    draw, entries, count = np.random.default_rng(3), {}, np.array([640], np.float32)
    for name, tensor in read_gguf(first.path)[1].items():
        if len(tensor.shape) == 2 and name.startswith("blk."):
            entries[name] = ImatrixEntry((draw.random((1, tensor.shape[0])) ** 3 * 640).astype(np.float32), count)
    matrix = tmp_path / "m.gguf"
    write_imatrix(matrix, Imatrix(entries, ("some.txt",), 5, 128))
    direct = convert(folder, tmp_path / "direct", "Q3_K_S", imatrix=matrix).of(Role.WEIGHTS)[0].path
    (made,) = again(first.path, tmp_path / "again", "Q3_K_S", imatrix=matrix)
    assert made.read_bytes() == direct.read_bytes()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A model's BF16 file in shards, its output apart from its embedding."""
    folder = tmp_path_factory.mktemp("shards")
    made = convert(tiny.tiny_llama(folder / "Tiny", tied=False), folder / "bf16", "BF16", split="9 tensors")
    return [artifact.path for artifact in made.of(Role.WEIGHTS)]


def test_a_source_in_shards_is_one_model(shards: list[Path], tmp_path: Path) -> None:
    direct = convert(shards[0].parent.parent / "Tiny", tmp_path / "direct", "Q8_0").of(Role.WEIGHTS)[0].path
    (made,) = again(shards[0], tmp_path / "again", "Q8_0")
    assert made.name == "Tiny-Q8_0.gguf"
    assert made.read_bytes() == direct.read_bytes()
    assert set(inputs(shards[0])["source"].of(Role.WEIGHTS)[1:]) == {
        Artifact("gguf", path, path.stat().st_size) for path in shards[1:]
    }


def test_the_shards_of_a_source_are_kept(shards: list[Path], tmp_path: Path) -> None:
    made = again(shards[0], tmp_path / "again", "Q8_0", split="keep")
    assert [path.name for path in made] == [path.name.replace("BF16", "Q8_0") for path in shards]
    for ours, source_file in zip(made, shards, strict=True):
        assert list(read_gguf(ours)[1]) == list(read_gguf(source_file)[1])
    halves = again(shards[0], tmp_path / "halves", "Q8_0", split="13 tensors")
    assert len(halves) != len(made)


def test_types_of_three_values_are_told_from_others(shards: list[Path]) -> None:
    asked = stage.Options(types=["Q4_0", "TQ1_0", "TQ2_0"])
    for given in (inputs(shards[0]), source_inputs(shards[0].parent.parent / "Tiny")):
        (said,) = [line for line in stage.explain(asked, given) if "BitNet" in line]
        assert said.startswith("note: TQ1_0 and TQ2_0: for models trained on -1, 0 and 1")
        assert not [line for line in stage.explain(stage.Options(types=["Q4_0"]), given) if "BitNet" in line]


def test_a_file_of_tensor_types(shards: list[Path], tmp_path: Path) -> None:
    listed = tmp_path / "types.txt"
    listed.write_text("ATTN_q=q5_1 blk\\.0=F16\n\nffn_down=q4_1\n")
    (made,) = again(shards[0], tmp_path / "out", "Q8_0", overrides={"attn_k": "Q5_0"}, tensor_type_file=listed)
    found = {name: tensor.tensor_type.name for name, tensor in read_gguf(made)[1].items()}
    names = ("attn_k", "attn_q", "attn_v", "ffn_down")
    assert [found[f"blk.0.{name}.weight"] for name in names] == ["Q5_0", "Q5_1", "F16", "F16"]
    assert [found[f"blk.1.{name}.weight"] for name in names] == ["Q5_0", "Q5_1", "Q8_0", "Q4_1"]
    listed.write_text("attn_q:q5_1 attn_v=q9 (=q8_0")
    problems = stage.check(stage.Options(types=["Q8_0"], tensor_type_file=listed), inputs(shards[0]))
    assert [p.got for p in problems[:2]] == ["'attn_q:q5_1' is not pattern=type", "'attn_v=q9' is not pattern=type"]
    assert "'(' is not a regular expression" in problems[2].got


def test_what_cannot_be_kept_or_is_not_all_there(shards: list[Path], tmp_path: Path) -> None:
    whole = again(shards[0], tmp_path / "whole", "F16")[0]
    (problem,) = stage.check(stage.Options(types=["Q4_0"], split="keep"), inputs(whole))
    assert "keep: the source is one file" in str(problem)
    given = source_inputs(shards[0].parent.parent / "Tiny")
    (problem,) = stage.check(stage.Options(types=["Q4_0"], split="keep"), given)
    assert "keep: the source is a checkpoint" in str(problem)
    (problem,) = source.check(SourceOptions(path=shards[1]), {})
    assert str(problem).endswith(f"is not the first of its files, wanted {shards[0].name}; name that one")
    alone = tmp_path / shards[0].name
    alone.write_bytes(shards[0].read_bytes())
    (problem,) = source.check(SourceOptions(path=alone), {})
    assert f"names '{shards[1].name}', which is not there" in str(problem)


@pytest.mark.parametrize("kind", ["BF16", "Q4_0"])
def test_the_output_is_left_as_it_is(kind: str, shards: list[Path], tmp_path: Path) -> None:
    (first,) = again(shards[0], tmp_path / "first", kind, output_tensor=kind)
    made = again(first, tmp_path / "again", "Q8_0", "Q5_0", leave_output_tensor=True, allow_requantize=kind == "Q4_0")
    wanted = read_gguf(first)[1]["output.weight"]
    assert wanted.tensor_type.name == kind
    for path in made:
        tensors = read_gguf(path)[1]
        assert tensors["output.weight"].tensor_type == wanted.tensor_type
        np.testing.assert_array_equal(tensors["output.weight"].data, wanted.data)
        assert tensors["blk.0.attn_q.weight"].tensor_type != wanted.tensor_type


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mmproj": "F16"}, "whose projector is another file"),
        ({"pre_tokenizer": "qwen2"}, "whose tokenizer is carried"),
    ],
)
def test_options_of_a_checkpoint_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    (first,) = convert(tiny.tiny_llama(tmp_path / "Tiny"), tmp_path / "first", "F16").of(Role.WEIGHTS)
    (problem,) = stage.check(stage.Options(types=["Q4_0"], **options), inputs(first.path))
    assert message in str(problem)


def test_a_recipe_with_a_file_for_a_model(tmp_path: Path) -> None:
    """Run as a whole; and validation says that it has nothing to compare with."""
    (first,) = convert(tiny.tiny_llama(tmp_path / "Tiny"), tmp_path / "first", "F16").of(Role.WEIGHTS)
    recipe = tmp_path / "r.yaml"
    words: dict[str, Any] = {
        "name": "x",
        "model": {"path": str(first.path)},
        "stages": {"a": {"use": "gguf", "types": ["Q8_0"]}},
    }
    recipe.write_text(json.dumps(words))
    run = CliRunner().invoke(main, ["run", str(recipe), "--out", str(tmp_path / "out")])
    assert run.exit_code == 0, run.output
    assert (tmp_path / "out" / "x" / "a" / "Tiny-Q8_0.gguf").is_file()
    recipe.write_text(json.dumps(words | {"validate": {}}))
    run = CliRunner().invoke(main, ["plan", str(recipe), "--out", str(tmp_path / "out")])
    assert "the source is no checkpoint that transformers runs" in run.output
    recipe.write_text(json.dumps(words | {"stages": {"b": {"use": "fp8"}}}))
    run = CliRunner().invoke(main, ["plan", str(recipe), "--out", str(tmp_path / "out")])
    assert "stage 'source' gives gguf weights, wanted a safetensors checkpoint" in run.output


def test_what_is_no_file_or_has_an_adapter(tmp_path: Path) -> None:
    (problem,) = source.check(SourceOptions(path=tmp_path / "none.gguf"), {})
    assert "is no file" in problem.got
    (tmp_path / "a.gguf").write_bytes(b"GGML")
    asked = SourceOptions.model_validate({"path": tmp_path / "a.gguf", "adapter": {"path": tmp_path}})
    assert "no adapter is merged" in source.check(asked, {})[0].got
    (problem,) = stage.check(stage.Options(types=["F16"]), inputs(tmp_path / "a.gguf"))
    assert "starts with b'GGML', wanted GGUF" in str(problem)
