"""The default mix: the same everywhere, varied, and nothing of what validation measures on."""

from __future__ import annotations

import ast
import itertools
import json
import re
import shutil
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from convert.calibration import maths, mix
from convert.calibration.draw import Draw
from convert.calibration.grammar import parse, write
from convert.validation import overlap
from tests import processes
from validate import choices, texts

ROOT = Path(__file__).parents[2]
HELDOUT = ROOT / "recipes/models/fara-nano/heldout"


def test_the_mix_is_what_it_was() -> None:
    """A change of it changes the keys of what was made with it: on purpose only."""
    assert mix.sha256() == "8bbab42cfc2dad92d2358ab93cd0a275e89a4ddfa8c4429b7b0b21503df0dbbd"


def test_another_process_draws_the_same() -> None:
    code = "from convert.calibration import mix; print(mix.beginning(mix.PARTS[3], 20000, seed=5))"
    said = processes.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=ROOT, encoding="utf-8")
    assert said.stdout.rstrip("\n") == mix.beginning(mix.PARTS[3], 20000, seed=5)
    assert said.stdout.rstrip("\n") != mix.beginning(mix.PARTS[3], 20000, seed=6)


def test_every_text_that_was_written_comes_first_and_once() -> None:
    for part in mix.PARTS:
        written = [document.plain for document in part.written()]
        said = [document.plain for document in mix.first(part, 2 * len(written), seed=9)]
        assert sorted(said[::2]) == sorted(written)
        assert len(set(said)) == len(said)


@pytest.mark.parametrize(
    ("rows", "counts"), [(128, [36, 24, 24, 22, 11, 11]), (6, [2, 1, 1, 1, 1, 0]), (1, [1] + [0] * 5)]
)
def test_rows_are_shared_out(rows: int, counts: list[int]) -> None:
    assert list(mix.shares(rows).values()) == counts


def test_no_sentence_is_repeated_wholesale() -> None:
    for part in mix.PARTS:
        words = overlap.WORD.findall(mix.beginning(part, 40_000))
        grams = Counter(tuple(words[i : i + 8]) for i in range(len(words) - 7))
        least = 0.8 if part.name in ("languages", "conversations") else 0.9  # schemas have words of their own
        assert len(grams) / sum(grams.values()) > least, part.name


def test_nothing_of_it_is_measured_on(tmp_path: Path) -> None:
    measured = [*texts.default_files(), choices.OUR_FILE, *HELDOUT.glob("*.txt"), *HELDOUT.glob("*.jsonl")]
    assert len(measured) >= 8
    for part in mix.PARTS:
        path = tmp_path / f"{part.name}.txt"
        path.write_text(mix.beginning(part, 200_000), encoding="utf-8")
        for tested in measured:
            shared = np.isin(overlap._windows(tested, 0), overlap._windows(path, 0))
            assert not shared.any(), (part.name, tested)


def test_at_least_a_dozen_languages_and_several_scripts() -> None:
    titles = re.findall(r"^=== (\w+)$", (mix.TEXTS / "languages.rules").read_text("utf-8"), re.MULTILINE)
    assert len(set(titles)) == len(titles) >= 12
    said = mix.beginning(next(p for p in mix.PARTS if p.name == "languages"), 60_000)
    for script in ("[а-я]", "[α-ω]", "[؀-ۿ]", "[ऀ-ॿ]", "[一-鿿]", "[ぁ-ん]", "[가-힣]", "[ก-๛]", "[א-ת]"):
        assert len(re.findall(script, said)) > 100, script


def test_no_rule_is_left_unfilled_or_unused() -> None:
    """A slot whose rule is misspelt would be read as code's own braces."""
    for path in mix.TEXTS.glob("*.rules"):
        for title, text in _grammars(path):
            rules = parse(text)
            assert all(rules.values()), (title, [name for name, found in rules.items() if not found])
            alternatives = "\n".join(one for found in rules.values() for one in found)
            slots = re.findall(r"\{(?:(\w+)=)?([A-Za-z]\w*)\}", alternatives)
            named, bound = {name for _, name in slots}, {name for name, _ in slots}
            assert named - rules.keys() - bound <= {"number"}, title  # TypeScript's own
            if path.name != "talks.rules":  # talks.py names those that begin a message
                assert rules.keys() - named == {"document"}, title


def _grammars(path: Path) -> list[tuple[str, str]]:
    text = path.read_text("utf-8")
    return list(mix._sections(text).items()) if text.startswith("===") else [(path.name, text)]


def test_calls_name_offered_functions_and_their_arguments() -> None:
    talks = [d for d in itertools.islice(mix.PARTS[3].documents(), 120) if d.tools]
    assert len(talks) > 30
    for talk in talks:
        offered = {tool["function"]["name"]: tool["function"]["parameters"] for tool in talk.tools}
        calls = [call["function"] for m in talk.messages for call in m.get("tool_calls", ())]
        assert calls
        assert len(calls) == sum(m["role"] == "tool" for m in talk.messages)
        for call in calls:
            assert call["arguments"].keys() == offered[call["name"]]["properties"].keys()
        for message in talk.messages:
            if message["role"] == "tool":
                json.loads(message["content"])


def test_the_mathematics_is_right() -> None:
    draw = Draw("check")
    said = "\n".join(maths.problem(draw) for _ in range(400))
    sums = re.findall(r"^(\d+) ([+×-]) (\d+) = (-?[\d,]+)$", said, re.MULTILINE)
    assert len(sums) > 90
    for a, sign, b, result in sums:
        assert {"+": int(a) + int(b), "-": int(a) - int(b), "×": int(a) * int(b)}[sign] == int(result.replace(",", ""))
    for a, b, every, share in re.findall(r"= (\d+)/(\d+) = (\d+)(?:/(\d+))? ≈", said):
        assert Fraction(int(a), int(b)) == Fraction(int(every), int(share or 1))
    roots = re.findall(r"For|\$x\^2 ([+-]\d+)x ([+-]\d+) = 0\$\. The.*?that is \$(-?\d+)\$ and \$(-?\d+)\$", said)
    for p, q, x, y in (found for found in roots if found[0]):
        assert (int(p), int(q)) == (-(int(x) + int(y)), int(x) * int(y))


def test_what_was_written_as_python_json_and_c_is_that(tmp_path: Path) -> None:
    sections = mix._sections((mix.TEXTS / "code.txt").read_text("utf-8"))
    python = [text for title, text in sections.items() if title.startswith("python")]
    assert len(python) >= 2
    for text in python:
        ast.parse(text)
    json.loads(next(text for title, text in sections.items() if title.startswith("json")))
    if compiler := shutil.which("cc"):
        path = tmp_path / "ring.c"
        path.write_text(next(text for title, text in sections.items() if title.startswith("c:")), encoding="utf-8")
        processes.run([compiler, "-fsyntax-only", "-Wall", "-Werror", str(path)], check=True)


def test_a_rule_draws_each_alternative_before_any_again() -> None:
    rules = parse("@document\n{a}-{a}-{3-3}\n@a\none|two\nthree|four or \\| five\n")
    draw = Draw("x")
    said = [write(rules, draw) for _ in range(2)]
    drawn = [word for one in said for word in one.removesuffix("-3").split("-")]
    assert sorted(drawn) == ["four or | five", "one", "three", "two"]


def test_braces_and_bars_of_code_stay() -> None:
    rules = parse("@document\nif (a || b) { {n=noun}: {n} } # {x}: {{n}.y}\\n\\\\n a | b\n@noun\nitem\n")
    assert write(rules, Draw("")) == "if (a || b) { item: item } # {x}: {item.y}\n\\n a | b"
