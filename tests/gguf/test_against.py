"""The error of a file's tensors against their checkpoint: zero where nothing is lost, the encoder's where it is."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from convert.bundle import Role
from convert.cli import main
from convert.errors import ConvertError
from convert.formats.gguf.against import by_type, error_lines, tensor_errors
from tests import tiny
from tests.fixtures_gguf import convert, edit_weights, read_gguf

MODELS: dict[str, Callable[[Path], Path]] = {
    "llama, whose query rows are rearranged": lambda f: tiny.tiny_llama(f, tied=False, shards=2),
    "experts": tiny.tiny_qwen3_moe,
    "float16": lambda f: tiny.tiny_qwen2(f, dtype="float16"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_file_that_loses_nothing_has_no_error(name: str, tmp_path: Path) -> None:
    folder = MODELS[name](tmp_path / "Tiny")
    (file,) = convert(folder, tmp_path / "out", "F32").of(Role.WEIGHTS)
    errors = list(tensor_errors(file.path, folder))
    assert [e.name for e in errors] == list(read_gguf(file.path)[1])
    assert all(e.rmse == e.relative == e.largest == 0 for e in errors)
    assert all(e.squared_source > 0 for e in errors)


def test_a_part_of_each_tensor_tells_about_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convert.formats.gguf.tensors.CHUNK_VALUES", 256)
    folder = tiny.tiny_qwen2(tmp_path / "Tiny")
    (file,) = convert(folder, tmp_path / "out", "Q8_0").of(Role.WEIGHTS)
    whole = {e.name: e for e in tensor_errors(file.path, folder)}
    for part in tensor_errors(file.path, folder, most_values=1024):
        assert part.values <= min(whole[part.name].values, 2048)
        assert part.relative == pytest.approx(whole[part.name].relative, rel=0.2, abs=1e-12)


def test_a_rounded_file_has_the_error_of_its_rounding(tmp_path: Path) -> None:
    folder = tiny.tiny_qwen2(tmp_path / "Tiny")
    exact, rounded = convert(folder, tmp_path / "out", "F32", "Q8_0").of(Role.WEIGHTS)
    errors = {e.name: e for e in tensor_errors(rounded.path, folder)}
    name = "blk.1.ffn_down.weight"
    source = read_gguf(exact.path)[1][name].data.astype(np.float64)
    blocks = read_gguf(rounded.path)[1][name].data.reshape(-1, 34)
    scales = blocks[:, :2].copy().view(np.float16).astype(np.float64)
    decoded = (scales * blocks[:, 2:].view(np.int8)).reshape(source.shape)
    assert errors[name].rmse == pytest.approx(math.sqrt(((decoded - source) ** 2).mean()), rel=1e-6)
    assert errors[name].largest == pytest.approx(np.abs(decoded - source).max(), rel=1e-6)
    assert errors[name].relative == pytest.approx(errors[name].rmse / math.sqrt((source**2).mean()), rel=1e-9)
    assert 0.001 < errors[name].relative < 0.01
    together = {e.type: e for e in by_type(errors.values())}
    assert together["F32"].rmse == 0
    assert together["Q8_0"].values + together["F32"].values == sum(e.values for e in errors.values())


def test_a_projector_is_compared_with_the_vision_tower(tmp_path: Path) -> None:
    folder = tiny.tiny_qwen2_5_vl(tmp_path / "Tiny")
    (projector,) = convert(folder, tmp_path / "out", "F16", mmproj="F32").of(Role.PROJECTOR)
    errors = list(tensor_errors(projector.path, folder))
    assert len(errors) > 20
    assert all(e.rmse == 0 for e in errors)


def test_another_checkpoint_shows(tmp_path: Path) -> None:
    folder = tiny.tiny_qwen2(tmp_path / "Tiny")
    (file,) = convert(folder, tmp_path / "out", "F32").of(Role.WEIGHTS)
    with pytest.raises(ConvertError, match="name the checkpoint that the file was made from"):
        list(tensor_errors(file.path, tiny.tiny_qwen2(tmp_path / "wider", hidden=96, heads=6)))
    edit_weights(folder, lambda tensors: {name: -values for name, values in tensors.items()})
    assert all(e.relative == 2 for e in tensor_errors(file.path, folder))


def test_the_table_has_a_line_a_tensor_and_a_line_a_type(tmp_path: Path) -> None:
    folder = tiny.tiny_qwen2(tmp_path / "Tiny", layers=1)
    (file,) = convert(folder, tmp_path / "out", "Q8_0").of(Role.WEIGHTS)
    head, *rows = error_lines(tensor_errors(file.path, folder))
    assert head.split() == ["tensor", "type", "rmse", "relative", "largest"]
    split = rows.index("")
    assert [row.split()[0] for row in rows[:split]] == list(read_gguf(file.path)[1])
    assert sorted(row.split()[2] for row in rows[split + 1 :]) == ["F32", "Q8_0"]


def test_the_command_prints_the_table_or_an_object_a_tensor(tmp_path: Path) -> None:
    folder = tiny.tiny_qwen2(tmp_path / "Tiny", layers=1)
    (file,) = convert(folder, tmp_path / "out", "Q8_0").of(Role.WEIGHTS)
    words = ["inspect", str(file.path), "--against", str(folder)]
    table, objects = (CliRunner().invoke(main, words + more) for more in ([], ["--json"]))
    assert table.exit_code == objects.exit_code == 0
    assert table.stdout.startswith("tensor ")
    found = [json.loads(line) for line in objects.stdout.splitlines()]
    assert [tensor["name"] for tensor in found] == list(read_gguf(file.path)[1])
    assert found[0].keys() == {"name", "type", "values", "rmse", "relative_rmse", "largest"}
    failed = CliRunner().invoke(main, [*words[:3], str(tmp_path / "nothing")])
    assert failed.exit_code == 1
    assert failed.stderr.count("error: ") == 1
