"""Every problem of a recipe at once, each at its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convert import RecipeError, load_recipe
from convert.recipe import MAX_RECIPE_BYTES, json_schema
from convert.suggest import suggest
from tests import fake_stages

# Each line holds the one before nine times: 300 bytes that would be 9 ** 7 values.
BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> Any:
    with fake_stages.installed(monkeypatch) as fakes:
        yield fakes


def write(folder: Path, text: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(text)
    return path


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(folder, text))
    return [str(p).removeprefix(f"{folder}/") for p in caught.value.problems]


def test_a_good_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(
        write(
            tmp_path,
            "name: demo\nmodel: {path: a.txt}\n"
            "stages:\n  two: {use: upper, from: one}\n  one: {use: upper, times: 3}\n"
            "validate: {limit: 1e-4}\n",
        )
    )
    assert list(recipe.stages) == ["source", "one", "two", "validate"]
    assert recipe.stages["two"].inputs == ("one",)
    assert recipe.stages["one"].options.times == 3  # type: ignore[attr-defined]
    assert recipe.stages["source"].options.path == tmp_path / "a.txt"  # type: ignore[attr-defined]
    assert recipe.stages["validate"].options.limit == 1e-4  # type: ignore[attr-defined]
    assert recipe.stages["validate"].inputs == ("source", "two", "one")
    assert recipe.where("stages", "one", "times").endswith("r.yaml:5")


def test_all_problems_at_once_with_lines_and_suggestions(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        "name: ../up\nmodle: {path: a}\nmodel:\n  path: a\n  hubb: b\nstages:\n  a:\n    use: uper\n"
        "  b:\n    use: upper\n    tims: 2\n    times: many\n    from: sauce\n  c: {use: upper, times: 77}\n",
    )
    text = "\n".join(found)
    assert "r.yaml:1: name is '../up'" in text
    assert "r.yaml:2: unknown key 'modle'; did you mean 'model'?" in text
    assert "r.yaml:5: unknown key 'hubb'; did you mean 'hub'?" in text
    assert "r.yaml:8: `use: uper` is not a stage; did you mean 'upper'?" in text
    assert "r.yaml:11: unknown key 'tims'; did you mean 'times'?" in text
    assert "r.yaml:12: times is 'many': input should be a valid integer" in text
    assert "r.yaml:13: stage 'b' takes `from: sauce`, and there is no stage 'sauce'; did you mean 'source'?" in text
    assert "r.yaml:14: times is 77: input should be less than or equal to 9" in text
    assert len(found) == 8


def test_a_key_that_is_misspelt_is_one_mistake(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, "name: d\nmodel: {paht: a}\n")
    assert found.endswith("r.yaml:2: unknown key 'paht'; did you mean 'path'?")


def test_of_many_names_a_message_shows_the_nearest_and_the_command_that_lists_all() -> None:
    many = [f"Q{bits}_{kind}" for bits in range(2, 9) for kind in "01K"]
    assert suggest("Q4_L", many) == "did you mean 'Q4_K'?"
    assert suggest("Q4-tiny", many, "convert stages") == "the nearest: Q4_K, Q4_1, Q4_0; `convert stages` lists all"
    assert suggest("banana", many, "convert stages") == "`convert stages` lists all"
    assert suggest("tiny4", ["one", "two"], "convert stages") == "known: one, two"


def test_a_cycle_is_drawn(tmp_path: Path) -> None:
    text = "name: d\nmodel: {path: a}\nstages:\n  a: {use: upper, from: b}\n  b: {use: upper, from: a}\n"
    (found,) = problems(tmp_path, text)
    assert "the stages form a cycle: " in found
    assert found.count("->") == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [", "not valid YAML"),
        ("name: d\nname: e\n", "r.yaml:2: the key 'name' is there twice; keep one of them"),
        ("name: d\nmodel: {path: a}\n1: 2\n", "r.yaml:3: the key 1 is not a string"),
        ("", "r.yaml: is empty, wanted `name:` and `model:`; `convert init` writes one"),
        ("- a\n- b\n", "the recipe is a list, wanted a mapping"),
        ("name: d\n", "`model:` is missing or empty, wanted a mapping"),
        ("name: d\nmodel: {}\n", "'path' is missing; add `path:`"),
        ("name: d\nmodel: {path: a}\nstages: {validate: {use: upper}}\n", "cannot name a stage"),
        ("name: d\nmodel: {path: a}\nstages: {a: {suffix: b}}\n", "has no `use:`"),
        ("name: d\nmodel: {path: a}\nstages: {a: {use: upper, from: []}}\n", "wanted a stage's name or a list"),
        ("name: d\nmodel: {path: a}\nstages: {a: {use: upper, from: validate}}\nvalidate:\n", "which is the last step"),
        ("name: d\nmodel: {path: a}\nstages: {use: upper}\n", "`use:` is a string, wanted a mapping"),
        ("name: 12\nmodel: {path: a}\n", "r.yaml:1: name is 12, wanted a string; write it as '12'"),
        ("name: !!python/object/apply:os.system [id]\nmodel: {path: a}\n", "r.yaml:1: name is ['id']"),
        ("name: !x {a: 1}\nmodel: {path: a}\n", "r.yaml:1: name is {'a': 1}"),
        ("name: d\nmodel: {path: a}\nstages: {report.json: {use: upper}}\nvalidate:\n", "cannot name a stage"),
        ("x: " + "y" * MAX_RECIPE_BYTES, "larger than 1 MiB"),
        (BOMB, "fewer aliases"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in "\n".join(problems(tmp_path, text))


def test_a_missing_file_and_one_that_is_not_text(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot be read: No such file or directory; give the path of a recipe"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(RecipeError, match="not valid YAML"):
        load_recipe(tmp_path / "r.yaml")


def test_the_schema_knows_every_stage(fakes: Any) -> None:
    schema = json_schema()
    (entry,) = schema["properties"]["stages"]["additionalProperties"]["oneOf"]
    assert entry["properties"]["use"] == {"const": "upper", "description": "The text in capitals."}
    assert set(entry["properties"]) == {"use", "from", "suffix", "times", "extra"}
    assert set(schema["properties"]) == {"name", "model", "stages", "validate", "release"}


def test_the_schema_allows_what_a_recipe_may_say() -> None:
    """Sections that may be left empty, and the names that a stage may not have."""
    properties = json_schema()["properties"]
    assert {"type": "null"} in properties["validate"]["anyOf"]
    assert properties["stages"]["type"] == ["object", "null"]
    assert "report.json" in properties["stages"]["propertyNames"]["not"]["enum"]
