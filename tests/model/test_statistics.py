"""One pass for several stages: what it keeps of each layer, and what is made of that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from convert.bundle import Bundle, Role
from convert.calibration.rows import Description, held_out, make_rows
from convert.errors import InputError
from convert.formats.compressed import folder_stage
from convert.formats.compressed.awq_stage import STAGE as awq
from convert.formats.compressed.gptq_stage import STAGE as gptq
from convert.formats.gguf.calibration_stage import STAGE as calibration
from convert.formats.gguf.imatrix import read_imatrix
from convert.formats.gguf.imatrix_stage import STAGE as imatrix
from convert.model import fisher_file
from convert.model.inputs import Inputs
from convert.model.statistics import PLAIN, LayerInputs, Statistics, file_of, save
from convert.progress import Silent
from tests import tiny
from tests.fixtures_gptq import source_bundle
from tests.parity.families import cases
from validate.runtimes._folder import CheckpointFolder

ROWS = {"samples": 6, "length": 48}


def made(stage: Any, words: dict[str, Any], inputs: dict[str, Bundle], out: Path) -> Bundle:
    """What a stage makes of its inputs, in an empty folder, no problem in its way."""
    options = stage.Options.model_validate(words)
    assert not stage.check(options, inputs)
    out.mkdir(parents=True)
    found: Bundle = stage.run(options, inputs, out, Silent())
    return found


def problems(stage: Any, words: dict[str, Any], measured: Bundle) -> list[str]:
    return [str(p) for p in stage.check(stage.Options.model_validate(words), {"measured": measured})]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return source_bundle(tiny.tiny_llama(tmp_path_factory.mktemp("model") / "Tiny", hidden=128, layers=2))


@pytest.fixture(scope="module")
def measured(model: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("measured") / "out"
    return made(calibration, {**ROWS, "threads": 1}, {"source": model}, out)


@pytest.fixture
def not_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder is loaded again in another process, which takes longer than all else: test_gptq_stage.py does it."""
    monkeypatch.setattr(folder_stage, "check_reload", lambda job: None)


@pytest.mark.parametrize("experts", [1, 3])
@pytest.mark.parametrize("columns", [1, 511, 512, 700])
def test_what_is_kept_comes_back(experts: int, columns: int, tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(columns)
    inputs = Inputs(columns, experts, grams=True)
    for expert in range(experts):
        inputs.add(torch.randn(5 + expert, columns, generator=draw), expert)
    layer = LayerInputs("layers.0", {"layers.0.q": inputs, "layers.0.k": inputs}, {"layers.0.q": "norm.weight"})

    artifact = save(tmp_path / file_of(0), layer, {"tokens": 9}, grams=True)
    statistics = Statistics.read([artifact.path])
    found = statistics.load("layers.0")

    assert statistics.rows == {"tokens": 9}
    assert found.norms == layer.norms
    assert found.found["layers.0.q"] is found.found["layers.0.k"]
    back = found.found["layers.0.q"]
    for before, after in ((getattr(inputs, word), getattr(back, word)) for word in ("counts", "squares", "largest")):
        assert torch.equal(before, after)
    for expert in range(experts):
        assert torch.equal(back.gram(expert), inputs.gram(expert))


@pytest.mark.usefixtures("not_loaded_again")
@pytest.mark.parametrize(("stage", "words"), [(gptq, {"bits": 8}), (gptq, {"bits": 4}), (awq, {})])
def test_a_stage_makes_of_them_what_it_makes_by_running_the_model(
    stage: Any, words: dict[str, Any], model: Bundle, measured: Bundle, tmp_path: Path
) -> None:
    """Of the same rows, not sequential: byte for byte."""
    words |= {"group_size": 32, "threads": 1}
    alone = {**words, "sequential": False, "calibration": ROWS}

    ours = made(stage, words, {"measured": measured}, tmp_path / "ours")
    theirs = made(stage, alone, {"source": model}, tmp_path / "theirs")

    assert [a.sha256 for a in ours.of(Role.WEIGHTS)] == [a.sha256 for a in theirs.of(Role.WEIGHTS)]
    said = [json.loads(next(iter(b.of(Role.CONFIG))).path.read_text())["quantization_config"] for b in (ours, theirs)]
    assert said[0] == said[1]
    assert not ours.of(Role.STATISTICS)


def test_the_importance_matrix_is_that_of_its_own_stage(model: Bundle, measured: Bundle, tmp_path: Path) -> None:
    """Both read the default mix, cut alike."""
    words = {"chunks": ROWS["samples"], "window": ROWS["length"], "threads": 1}
    alone = made(imatrix, words, {"source": model}, tmp_path / "alone")

    ours, theirs = (read_imatrix(next(iter(b.of(Role.IMATRIX))).path) for b in (measured, alone))

    assert ours.entries.keys() == theirs.entries.keys()
    for name, entry in ours.entries.items():
        assert np.array_equal(entry.counts, theirs.entries[name].counts), name
        assert np.allclose(entry.values, theirs.entries[name].values, rtol=1e-6), name


def test_the_forecast_names_what_will_be_there(model: Bundle, measured: Bundle) -> None:
    forecast = calibration.forecast(calibration.Options.model_validate(ROWS), {"source": model})
    for role in (Role.STATISTICS, Role.IMATRIX):
        said, there = forecast.of(role), measured.of(role)
        assert [a.path.name for a in said] == [a.path.name for a in there]
        assert [a.kind for a in said] == [a.kind for a in there]
        for before, after in zip(said, there, strict=True):
            assert abs(before.size - after.size) <= 0.05 * after.size


def test_statistics_that_do_not_do_are_refused(model: Bundle, measured: Bundle, tmp_path: Path) -> None:
    few = made(calibration, {**ROWS, "grams": False}, {"source": model}, tmp_path / "few")
    assert {a.kind for a in few.of(Role.STATISTICS)} == {PLAIN}

    (text,) = problems(gptq, {"group_size": 32}, few)
    assert "stage 'measured' keeps no Gram matrices" in text
    assert "grams: true" in text
    (text,) = problems(awq, {"group_size": 32, "calibration": {"samples": 4}}, measured)
    assert "calibration: beside `from: measured`" in text
    (text,) = problems(gptq, {"group_size": 32, "sequential": True}, measured)
    assert "sequential: true" in text


def test_a_damaged_file_gives_one_error(measured: Bundle, tmp_path: Path) -> None:
    first = next(iter(measured.of(Role.STATISTICS))).path
    path = tmp_path / first.name
    path.write_bytes(first.read_bytes().replace(b'"rows"', b'"sour"', 1))
    with pytest.raises(InputError, match="no layer's statistics"):
        Statistics.read([path])
    with pytest.raises(InputError, match=r"nothing of model\.layers\.9"):
        Statistics.read([first]).load("model.layers.9")
    path.write_bytes(first.read_bytes().replace(b'"0.squares"', b'"0.sqrares"', 1))
    layer = json.loads(json.loads(path.read_bytes()[8:].split(b"}}}")[0].split(b'"layer":')[1].split(b",")[0]))
    with pytest.raises(InputError, match=r"no layer's statistics"):
        Statistics.read([path]).load(layer)


@pytest.mark.usefixtures("not_loaded_again")
@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral"])
def test_experts_have_statistics_of_their_own(name: str, tmp_path: Path) -> None:
    model = source_bundle(cases()[name].make(tmp_path / "model"))
    kept = made(calibration, {**ROWS, "calibrate_all_experts": True}, {"source": model}, tmp_path / "kept")

    ours = made(gptq, {"group_size": 32}, {"measured": kept}, tmp_path / "ours")

    assert ours.of(Role.WEIGHTS)


@pytest.mark.parametrize("name", ["llama", "qwen3_moe"])
def test_what_errors_cost_is_kept_beside_and_nothing_else_changes(name: str, tmp_path: Path) -> None:
    model = source_bundle(cases()[name].make(tmp_path / "model"))
    plain = made(calibration, ROWS, {"source": model}, tmp_path / "plain")
    kept = made(calibration, {**ROWS, "fisher": True}, {"source": model}, tmp_path / "kept")

    for role in (Role.STATISTICS, Role.IMATRIX):
        assert [a.sha256 for a in plain.of(role)] == [a.sha256 for a in kept.of(role)]
    assert not plain.of(Role.GRADIENTS)
    (artifact,) = kept.of(Role.GRADIENTS)
    forecast = calibration.forecast(calibration.Options.model_validate({**ROWS, "fisher": True}), {"source": model})
    (said,) = forecast.of(Role.GRADIENTS)
    assert (said.path.name, said.kind) == (artifact.path.name, artifact.kind)
    found = fisher_file.load(artifact.path)
    (embedding,) = found.by_token.values()
    assert embedding.any()
    names = {"llama": "model.layers.1.mlp.down_proj.weight", "qwen3_moe": "model.layers.1.mlp.experts.gate_up_proj"}
    one = found.matrices[names[name]]
    assert len(one.rows) == len(one.squares) == len(one.rounding[32]) == (1 if name == "llama" else 8)
    assert one.rows.sum() > 0
    assert (one.squares >= 0).all()
    assert found.held_out
    assert len({tuple(row) for row in found.held_out}) == len(found.held_out)


def test_rows_that_are_held_out_are_none_that_were_read(tmp_path: Path) -> None:
    folder = CheckpointFolder(tiny.tiny_llama(tmp_path / "tiny"))
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"word {number} of a text" for number in range(400)), encoding="utf-8")
    for asked in (Description(samples=6, length=24), Description(str(text), samples=6, length=24)):
        rows = make_rows(folder, asked)
        found = held_out(folder, asked, rows, 5)
        unread = found.rows
        assert bool(found.own) == bool(asked.text)
        assert len(unread) == 5
        assert not {tuple(row) for row in unread} & {tuple(row["input_ids"][0].tolist()) for row in rows}


def test_a_damaged_file_of_gradients_gives_one_error(measured: Bundle) -> None:
    with pytest.raises(InputError, match="holds no gradients"):
        fisher_file.load(next(iter(measured.of(Role.STATISTICS))).path)
