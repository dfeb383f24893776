"""What is made of a checkpoint in pickles: every stage plans by the pickles, before they are safetensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from convert import load_recipe, plan, run
from convert.bundle import Role
from convert.source.checkpoint import open_bundle
from tests.fixtures_gguf import source_inputs
from tests.hostile import WEIGHTS
from tests.tiny import tiny_llama


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pickled-source")
    folder = tiny_llama(place / "Tiny", layers=1)
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    (place / "r.yaml").write_text("name: r\nmodel: {path: Tiny}\nstages:\n  mlx: {use: mlx, bits: 4}\n")
    return place


def test_what_is_planned_is_what_is_made(place: Path) -> None:
    planned = plan(load_recipe(place / "r.yaml"), place / "out")
    assert planned.problems == ()
    source = source_inputs(place / "Tiny")["source"]
    wanted = {name: (t.dtype, t.shape) for name, t in open_bundle(source).tensors.items()}
    made = run(planned).bundles
    (file,) = made["source"].of(Role.WEIGHTS)
    stored = {name: tuple(t.shape) for name, t in load_file(file.path).items()}
    assert {name: shape for name, (_, shape) in wanted.items()} == stored
    assert made["mlx"].of(Role.WEIGHTS)


@pytest.mark.parametrize("use", ["fp8", "compressed, scheme: W8A16, group_size: 64", "mlx, bits: 8"])
def test_no_stage_wants_the_weights_before_they_are_made(use: str, place: Path, tmp_path: Path) -> None:
    recipe = place / f"{use.split(',', maxsplit=1)[0]}.yaml"
    recipe.write_text(f"name: p\nmodel: {{path: Tiny}}\nstages:\n  made: {{use: {use}}}\n")
    assert plan(load_recipe(recipe), tmp_path / "out").problems == ()
