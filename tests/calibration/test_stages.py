"""Stages that calibrate do so on the default mix where a recipe names nothing; its content is part of their keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from convert import load_recipe, plan, run
from convert.calibration import mix
from convert.formats.compressed.awq_stage import STAGE as AWQ
from convert.formats.compressed.gptq_stage import STAGE as GPTQ
from convert.formats.gguf.imatrix import read_imatrix
from tests import tiny

RECIPE = """
name: r
model: {path: Tiny}
stages:
  matrix: {use: imatrix, chunks: 6, window: 24, threads: 1}
  weighted: {use: gguf, from: matrix, types: [Q4_0]}
  inline: {use: gguf, types: [Q4_0], imatrix: {chunks: 6, window: 24}}
  plain: {use: gguf, types: [Q4_0]}
  gptq: {use: gptq, group_size: 32}
  awq: {use: awq, group_size: 32, calibration: {samples: 8, length: 64}}
  named: {use: gptq, group_size: 32, calibration: {text: text.txt, samples: 8, length: 64}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    tiny.tiny_llama(tmp_path / "Tiny")
    (tmp_path / "text.txt").write_text("\n".join(tiny._text()), encoding="utf-8")
    (tmp_path / "r.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path / "r.yaml"


def test_a_plan_needs_no_file(recipe: Path) -> None:
    made = plan(load_recipe(recipe), recipe.parent / "out")
    assert made.problems == ()
    lines = {step.name: step.explain(made.inputs(step)) for step in made.steps}
    assert "calibrates on the default mix: 128 rows of 512 tokens" in lines["gptq"]
    assert "calibrates on the default mix: 8 rows of 64 tokens" in lines["awq"]
    assert not any("default mix" in line for line in lines["named"])
    assert lines["matrix"] == [f"14 matrices on 6 chunks of 24 tokens of the default mix {mix.sha256()[:8]}"]


def test_what_the_mix_says_is_part_of_the_keys_of_who_reads_it(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {step.name: step.key for step in plan(load_recipe(recipe), recipe.parent / "out").steps}
    monkeypatch.setattr(mix, "sha256", lambda: "0" * 64)
    after = {step.name: step.key for step in plan(load_recipe(recipe), recipe.parent / "out").steps}
    changed = {name for name, key in before.items() if after[name] != key}
    assert changed == {"matrix", "weighted", "inline", "gptq", "awq"}


def test_an_importance_matrix_of_the_mix(recipe: Path) -> None:
    text = recipe.read_text("utf-8")
    recipe.write_text("\n".join(line for line in text.splitlines() if "ptq" not in line and "awq" not in line), "utf-8")
    planned = plan(load_recipe(recipe), recipe.parent / "out")
    forecast = next(step.write_bytes for step in planned.steps if step.name == "matrix")
    run(planned)
    out = recipe.parent / "out/r"
    matrix = out / "matrix/Tiny-imatrix.gguf"
    found = read_imatrix(matrix)
    assert (found.chunk_count, found.chunk_size) == (6, 24)
    assert found.datasets == (f"the default mix {mix.sha256()[:8]}",)
    assert matrix.stat().st_size == forecast
    weighted, inline, plain = (out / name / "Tiny-Q4_0.gguf" for name in ("weighted", "inline", "plain"))
    assert weighted.read_bytes() == inline.read_bytes() != plain.read_bytes()
    assert all(step.up_to_date for step in plan(load_recipe(recipe), recipe.parent / "out").steps)


def test_the_worker_is_told_of_no_file() -> None:
    for stage in (GPTQ, AWQ):
        description = stage.Options().calibration.description
        assert (description.text, description.chat, description.screens) == ("", "", "")
        assert (description.samples, description.length) == (128, 512)
