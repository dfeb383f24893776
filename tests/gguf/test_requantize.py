"""A GGUF file as a source: other types of it are the bytes that the checkpoint itself would have become."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from gguf.quants import dequantize

from convert.bundle import Role
from convert.cli import main
from convert.formats.gguf import shard_names
from convert.formats.gguf.imatrix import Imatrix, ImatrixEntry, write_imatrix
from convert.formats.gguf.stage import STAGE as stage
from convert.progress import Silent
from convert.source.stage import STAGE as source
from convert.source.stage import SourceOptions
from tests import tiny
from tests.fixtures_gguf import convert, read_gguf
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


def test_shards_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_names, "size_in_bytes", lambda text: 100_000)
    folder = tiny.tiny_llama(tmp_path / "Tiny")
    (first,) = convert(folder, tmp_path / "first", "BF16").of(Role.WEIGHTS)
    shards = again(first.path, tmp_path / "shards", "F16", max_shard="1M")
    assert len(shards) > 1
    (problem,) = stage.check(stage.Options(types=["Q4_0"]), inputs(shards[0]))
    assert f"is one of {len(shards)} files, wanted one file" in str(problem)


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
