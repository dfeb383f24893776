"""Every message a user may read is in tests/messages/, so that a new or changed one shows in a review."""

from __future__ import annotations

import ast
import difflib
import re
from pathlib import Path

import pytest

from tests.messages import inventory, rendered

FOLDER = Path(__file__).parent / "messages"
TEXTS = inventory.snapshots()
RENDERED = (
    "rendered.help",
    "rendered.broken-checkpoints",
    "rendered.wrong-recipes",
    "rendered.small-model",
    "rendered.report",
)


@pytest.mark.parametrize("name", TEXTS)
def test_the_snapshot_is_what_the_code_says(name):
    compare(name, TEXTS[name])


@pytest.mark.parametrize("name", RENDERED)
def test_the_snapshot_is_what_the_command_line_prints(name, tmp_path):
    for module in ("torch", "transformers", "onnx", "xllamacpp", "gptqmodel"):  # what is missing is another message
        pytest.importorskip(module)
    parts = rendered.sections(tmp_path)
    assert tuple(parts) == RENDERED

    compare(name, rendered.text(parts[name]()))


def compare(name: str, now: str) -> None:
    written = (FOLDER / f"{name}.txt").read_text("utf-8")
    changed = list(difflib.unified_diff(written.splitlines(), now.splitlines(), lineterm="", n=0))
    assert not changed, "read the difference, then `python -m tests.messages --write`\n" + "\n".join(changed)


def test_no_snapshot_is_of_nothing():
    assert {file.stem for file in FOLDER.glob("*.txt")} == {*TEXTS, *RENDERED}


MANY = 12


@pytest.mark.parametrize("name", RENDERED)
def test_no_error_lists_more_than_a_dozen_names(name):
    errors = [line for line in (FOLDER / f"{name}.txt").read_text("utf-8").splitlines() if line.startswith("error: ")]

    assert not [line for line in errors if re.sub(r"\[.*?\]", "", line).count(", ") > MANY]  # shapes have commas too


def lines(code: str) -> list[str]:
    return list(inventory._lines(ast.parse(code)))


def test_what_is_filled_in_is_shown_by_its_name():
    found = lines("def f(n):\n    got = f'{n} tokens'\n    raise InputError('here', got, 'at least one', 'name more')")

    assert found == ["InputError | here | {n} tokens | at least one | name more"]


def test_each_branch_of_a_message_is_shown():
    code = "def f(a, b):\n    got = 'is cut short' if a else f'lacks {b}'\n    return Problem('here', got)"

    assert lines(code) == ["Problem | here | {is cut short ¦ lacks {b}}"]


def test_an_error_of_a_helper_is_a_message():
    assert lines("def f(cursor):\n    raise cursor.broken('ends too early')") == ["broken | ends too early"]


def test_a_problem_within_an_error_is_one_message():
    assert lines("raise PlanError(Problem('here', 'is wrong'))") == ["Problem | here | is wrong"]


def test_any_other_sentence_is_shown_and_a_docstring_is_not():
    code = "def f():\n    '''A docstring of words.'''\n    yield 'all is up to date'\n    return 'word'"

    assert lines(code) == ["text | all is up to date"]
