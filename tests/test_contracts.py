"""Contracts over the folder listings: a new stage or recipe is tested the moment its file exists."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import re
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from convert import load_recipe, registry
from convert.errors import ConvertError
from convert.options import Options, words_of
from convert.recipe import json_schema
from tests import processes

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_listings_are_not_empty() -> None:
    assert {"source", "gguf", "validate"} <= set(registry.names())
    assert {"demo.yaml", "fara7b.yaml"} <= {path.name for path in RECIPES}


@pytest.mark.parametrize("name", registry.names())
def test_a_stage_has_the_shape_of_a_stage(name: str) -> None:
    stage = registry.load(name)
    assert isinstance(stage.VERSION, int)
    assert issubclass(stage.Options, Options)
    assert stage.Options.model_config["extra"] == "forbid"
    assert name == stage.NAME
    assert stage.title.strip()
    for field, info in stage.Options.model_fields.items():
        assert info.description, f"option {field} of stage {name} has no description: editors show it"


@pytest.mark.parametrize("name", registry.names())
def test_what_a_stage_needs_is_an_extra_of_ours(name: str) -> None:
    stage = registry.load(name)
    assert set(stage.NEEDS.values()) <= set(PROJECT["optional-dependencies"])
    for tool in stage.TOOLS:
        assert importlib.metadata.version(tool), f"{tool} is not a distribution: its version could not be in the key"


@pytest.mark.parametrize("name", registry.names())
def test_a_stage_is_imported_at_once(name: str) -> None:
    """The plan imports every stage; torch and its like must wait until the stage runs."""
    code = (
        f"import sys; from convert import registry; registry.load({name!r}); "
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'transformers', 'gguf', 'xllamacpp'}))"
    )
    done = processes.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_every_recipe_we_ship_is_right(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name
    assert "validate" in recipe.stages, "a recipe of ours proves its outputs"


def test_the_schema_is_json_and_knows_every_stage() -> None:
    text = json.dumps(json_schema())
    for name in registry.names():
        assert registry.load(name).__doc__
        for option in words_of(registry.load(name).Options):
            assert f'"{option}"' in text


@pytest.mark.parametrize("name", registry.names())
def test_the_schema_has_the_nested_words_of_each_stage(name: str) -> None:
    """Two stages may have options of one name: gguf's `Calibration` is not gptq's."""
    definitions = json_schema()["$defs"]
    for title, own in registry.load(name).Options.model_json_schema().get("$defs", {}).items():
        assert definitions[f"{name}.{title}"]["properties"].keys() == own["properties"].keys()


@pytest.mark.parametrize("group", [None, *PROJECT["optional-dependencies"]])
def test_every_dependency_has_a_lower_bound_and_its_reason(group: str | None) -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    pinned = PROJECT["dependencies"] if group is None else PROJECT["optional-dependencies"][group]
    for requirement in pinned:
        if requirement.startswith(f"{PROJECT['name']}["):
            continue  # extras of ours together: each is looked at by itself
        assert ">=" in requirement
        assert any(f'"{requirement}"' in line and "#" in line for line in lines), f"{requirement} has no reason"


def test_public_functions_of_a_stage_agree_on_their_parameters() -> None:
    import inspect

    for name in registry.names():
        stage = registry.load(name)
        assert list(inspect.signature(stage.check).parameters) == ["options", "inputs"]
        assert list(inspect.signature(stage.forecast).parameters) == ["options", "inputs"]
        assert list(inspect.signature(stage.run).parameters) == ["options", "inputs", "out", "progress"]


@pytest.mark.parametrize(
    ("pattern", "most"),
    [
        pytest.param(r"\bAny\b", 30, id="Any"),  # JsonObject, object, or the library's type under TYPE_CHECKING instead
        pytest.param(r"getattr\(", 22, id="getattr"),  # at somebody else's object alone: what is ours has a name
    ],
)
def test_few_lines_leave_a_type_or_a_name_open(pattern: str, most: int) -> None:
    files = [path for package in ("convert", "quantize", "validate") for path in sorted((ROOT / package).rglob("*.py"))]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert found, "the pattern finds nothing, so nothing is counted"
    assert len(found) <= most, "\n".join(found)


def test_two_formats_with_one_name_for_a_stage_or_a_kind_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = registry.formats()
    gguf = next(format_ for format_ in ours if format_.name == "gguf")
    other = replace(gguf, name="other", kinds=(), stages={"gguf": "other.stage:STAGE"})
    monkeypatch.setattr(registry, "formats", lambda: [*ours, other])
    with pytest.raises(ConvertError, match="its word `use: gguf` is that of convert"):
        registry.names()
    monkeypatch.setattr(registry, "formats", lambda: [*ours, replace(gguf, name="other")])
    with pytest.raises(ConvertError, match="format other: its kind 'gguf' is that of gguf too"):
        registry.kinds()
