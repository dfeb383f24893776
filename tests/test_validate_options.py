"""The words of `validate:`: how many tokens, and what they come to."""

from __future__ import annotations

from pathlib import Path

import pytest

from convert import load_recipe
from convert.errors import RecipeError
from convert.validation.options import ValidateOptions
from tests import tiny
from validate.enough import MOST_TOKENS


def recipe(folder: Path, tokens: str) -> Path:
    path = folder / "recipe.yaml"
    tiny.tiny_llama(folder / "model")
    path.write_text(
        "name: r\nmodel: {path: model}\nstages:\n  a: {use: gguf, types: [F16]}\nvalidate:\n  tokens: " + tokens
    )
    return path


@pytest.mark.parametrize(("written", "tokens", "most"), [("4096", 4096, 4096), ("auto", "auto", MOST_TOKENS)])
def test_a_number_of_tokens_or_auto(tmp_path: Path, written: str, tokens: object, most: int) -> None:
    options = load_recipe(recipe(tmp_path, written)).stages["validate"].options
    assert isinstance(options, ValidateOptions)
    assert (options.tokens, options.most_tokens) == (tokens, most)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("autto", "6: tokens is 'autto', wanted a number or auto"),
        ("8", "6: tokens is 8, wanted at least 16, or auto"),
        ("2.5", "6: tokens is 2.5, wanted a number or auto"),
        ("[1]", "6: tokens is [1], wanted a number or auto"),
    ],
)
def test_what_is_neither_is_one_problem(tmp_path: Path, written: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe(tmp_path, written))
    (problem,) = map(str, caught.value.problems)
    assert problem.endswith(said)


def test_an_editor_is_told_both() -> None:
    kinds = ValidateOptions.model_json_schema()["properties"]["tokens"]["anyOf"]
    assert kinds == [{"minimum": 16, "type": "integer"}, {"const": "auto", "type": "string"}]
