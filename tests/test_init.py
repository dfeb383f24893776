"""`convert init`: a recipe that loads and plans as it is written, and holds what the model supports."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
from click.testing import CliRunner, Result

from convert import load_recipe, plan, registry
from convert.cli import main
from convert.formats.base import Format, RecipeEntry
from convert.inspection import new_recipe
from convert.source.checkpoint import open_checkpoint
from tests import tiny

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FARA_NANO = Path(__file__).parents[1] / "recipes" / "models" / "fara-nano"


def init(*words: object) -> Result:
    return CliRunner().invoke(main, ["init", *map(str, words)], catch_exceptions=False)


def uncommented(text: str) -> str:
    """The recipe with every entry that is written as comments put to use, as its comment says."""
    return re.sub(r"(?m)^  # (?=(?:  |[a-z0-9]+:$))", "  ", text)


def offered() -> list[RecipeEntry]:
    """What the formats that take fara-nano have for a recipe: not every format need take a model that sees."""
    checkpoint = open_checkpoint(FARA_NANO)
    return [entry for found in registry.formats() if found.supports(checkpoint).yes for entry in found.recipe]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_the_recipe_of_fara_nano_plans_without_a_problem(tmp_path: Path) -> None:
    result = init(FARA_NANO, "--out", tmp_path / "recipe.yaml")
    assert result.exit_code == 0
    assert "convert plan" in result.stdout
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert {"source", "gguf", "fp8", "onnx", "tensorrt", "validate"} <= set(recipe.stages)
    assert not {entry.name for entry in offered() if entry.wanted} & set(recipe.stages)
    assert recipe.name == "fara-nano"
    planned = plan(recipe, tmp_path / "out")
    assert planned.problems == ()
    assert not (tmp_path / "out").exists()


def test_every_entry_that_is_commented_out_loads_once_it_is_put_to_use(tmp_path: Path) -> None:
    init(FARA_NANO, "--out", tmp_path / "recipe.yaml")
    (tmp_path / "train.txt").write_text("A text. " * 4000)
    written = (tmp_path / "recipe.yaml").read_text()
    (tmp_path / "all.yaml").write_text(uncommented(written))
    recipe = load_recipe(tmp_path / "all.yaml")
    assert {entry.name for entry in offered()} | {"source", "validate"} == set(recipe.stages)
    assert plan(recipe, tmp_path / "out").problems == ()


OF_OTHER_FILES = {"gguf_lora", "checkpoint", "calibration"}  # and what serves other stages
"""What is made of an adapter, and of a GGUF file: a recipe that begins with a checkpoint has neither."""


def test_every_stage_of_a_format_is_offered() -> None:
    for format_ in registry.formats():
        assert {entry.use for entry in format_.recipe} == set(format_.stages) - OF_OTHER_FILES


def test_the_path_is_told_from_where_the_recipe_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models" / "my model: 1"
    folder.mkdir(parents=True)
    tiny.tiny_llama(folder)
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path)
    assert init("models/my model: 1", "--out", "recipes/r.yaml").exit_code == 0
    recipe = load_recipe("recipes/r.yaml")
    assert recipe.name == "my-model-1"
    assert recipe.stages["source"].options.path.resolve() == folder


def test_a_format_that_cannot_take_the_model_is_left_out_with_the_reason(tmp_path: Path) -> None:
    folder = tiny.tiny_llama(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["ArcticForCausalLM"]}))
    assert init(folder, "--out", tmp_path / "r.yaml").exit_code == 0
    text = (tmp_path / "r.yaml").read_text()
    assert "# GGUF is left out: config.json: not supported" in text
    assert "gguf" not in load_recipe(tmp_path / "r.yaml").stages


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("mine\n")
    result = init(FARA_NANO, "--out", recipe)
    assert result.exit_code == 1
    assert "is there already" in result.stderr
    assert "--force" in result.stderr
    assert recipe.read_text() == "mine\n"
    assert init(FARA_NANO, "--out", recipe, "--force").exit_code == 0
    assert load_recipe(recipe).name == "fara-nano"


def test_a_link_that_leads_nowhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    assert init(FARA_NANO, "--out", tmp_path / "recipe.yaml").exit_code == 1
    assert not (tmp_path / "elsewhere.yaml").exists()


def test_a_hub_model_that_is_not_here_gets_every_format(tmp_path: Path, cache: Path) -> None:
    assert init("microsoft/Fara-7B", "--out", tmp_path / "r.yaml").exit_code == 0
    text = (tmp_path / "r.yaml").read_text()
    assert "not on this machine" in text
    recipe = load_recipe(tmp_path / "r.yaml")
    assert (recipe.name, recipe.stages["source"].options.hub) == ("Fara-7B", "microsoft/Fara-7B")
    assert "gguf" in recipe.stages
    assert not cache.exists()


def test_a_hub_model_in_the_cache_is_pinned_to_its_commit(tmp_path: Path, cache: Path) -> None:
    repository = cache / "models--org--tiny"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    tiny.tiny_llama(snapshot)
    assert init("org/tiny", "--out", tmp_path / "r.yaml").exit_code == 0
    recipe = load_recipe(tmp_path / "r.yaml")
    assert recipe.stages["source"].options.revision == COMMIT
    assert "LlamaForCausalLM" in (tmp_path / "r.yaml").read_text()


@pytest.mark.parametrize("named", ["nothing-here", "org/model@a b", "recipes/missing.safetensors"])
def test_what_is_no_model_is_said(tmp_path: Path, cache: Path, named: str) -> None:
    result = init(named, "--out", tmp_path / "r.yaml")
    assert result.exit_code == 1
    assert "hub model" in result.stderr
    assert not (tmp_path / "r.yaml").exists()


def test_without_the_packages_of_a_stage_its_entry_is_a_comment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    there: Callable[[str], object] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else there(name))
    assert init(FARA_NANO, "--out", tmp_path / "r.yaml").exit_code == 0
    recipe = load_recipe(tmp_path / "r.yaml")
    assert set(recipe.stages) == {"source", "gguf", "mlx"}
    assert "pip install" in (tmp_path / "r.yaml").read_text()
    assert plan(recipe, tmp_path / "out").problems == ()


def test_a_format_without_entries_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    bare: list[Format] = [replace(format_, recipe=()) for format_ in registry.formats()]
    monkeypatch.setattr(new_recipe.registry, "formats", lambda: bare)
    assert init(FARA_NANO, "--out", tmp_path / "r.yaml").exit_code == 0
    text = (tmp_path / "r.yaml").read_text()
    assert "  #   use: imatrix" in text
    assert set(load_recipe(tmp_path / "r.yaml").stages) == {"source", "validate"}
