"""What is calibrated on and tested on at once is found by its words, told in the plan and in the report."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

from convert import load_recipe, plan, run
from convert.calibration import mix
from convert.validation.overlap import overlaps
from convert.validation.stage import STAGE as VALIDATE
from tests import tiny
from tests.fixtures_gptq import NANO
from validate import choices, texts
from validate.report import verdicts

WORDS = [f"{a}{b}" for a in ("ta", "mo", "re", "shu", "ki") for b in ("nal", "pe", "rin", "os", "ba", "dur", "li")]


def sentences(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=16)).capitalize() + "." for _ in range(count)]


def said(calibrated: Path, tested: Path) -> list[str]:
    return list(overlaps([calibrated], [tested], {}))


@pytest.fixture
def tested(tmp_path: Path) -> Path:
    path = tmp_path / "tested.txt"
    path.write_text("\n".join(sentences(50, seed=0)), encoding="utf-8")
    return path


def test_a_text_that_is_wrapped_otherwise_is_found(tested: Path, tmp_path: Path) -> None:
    words = tested.read_text("utf-8").upper().split()
    other = tmp_path / "other.md"
    other.write_text("\n".join("  ".join(words[i : i + 7]) for i in range(0, len(words), 7)), encoding="utf-8")
    assert said(other, tested) == ["calibrates on other.md, which holds 100% of the words of tested.txt"]


def test_a_text_that_was_put_into_conversations_is_found(tested: Path, tmp_path: Path) -> None:
    lines = tested.read_text("utf-8").splitlines()
    talks = [{"messages": [{"role": "user", "content": f"“{a}”\n\n{b}"}]} for a, b in itertools.pairwise(lines[:21])]
    other = tmp_path / "chat.jsonl"
    other.write_text("\n".join(map(json.dumps, talks)), encoding="utf-8")
    (found,) = said(other, tested)
    assert found == "calibrates on chat.jsonl, which holds 41% of the words of tested.txt"
    assert said(tested, other)[0].endswith("of the words of chat.jsonl")


def test_a_passage_of_a_long_text_is_found(tested: Path, tmp_path: Path) -> None:
    """The share is small, the words are many: what is tested is the text's beginning, not all of it."""
    long, other = tmp_path / "long.txt", tmp_path / "other.txt"
    passage = sentences(4, seed=1)
    long.write_text(" ".join([*passage, *sentences(2000, seed=2)]), encoding="utf-8")
    other.write_text(" ".join([*sentences(30, seed=3), *passage]), encoding="utf-8")
    assert said(other, long) == ["calibrates on other.txt, which holds some of the words of long.txt"]


def test_languages_without_spaces_are_compared_by_letters(tmp_path: Path) -> None:
    draw = random.Random(4)
    letters = "山川木水火土金石田花鳥風月雪雨空海船車道"
    first, other = ("".join(draw.choices(letters, k=300)) for _ in range(2))
    for name, text in (("a.txt", first), ("b.txt", "はい。" + first[100:] + "。"), ("c.txt", other)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert said(tmp_path / "b.txt", tmp_path / "a.txt")[0].endswith("of the words of a.txt")
    assert said(tmp_path / "c.txt", tmp_path / "a.txt") == []


def test_texts_of_the_same_vocabulary_do_not_overlap(tested: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("\n".join(sentences(2000, seed=5)), encoding="utf-8")
    assert said(other, tested) == []
    assert said(tmp_path / "other.txt", tmp_path / "other.txt") != []


def test_the_mix_and_our_own_texts_do_not_overlap() -> None:
    assert list(overlaps(mix.files(), texts.default_files(), {})) == []


RECIPE = """
name: r
model: {{path: Tiny}}
stages:
  four: {{use: imatrix, window: 24, chunks: 2, threads: 1{text}}}
  gguf: {{use: gguf, from: four, types: [Q4_0]}}
validate: {{tokens: 64, window: 32, threads: 1{tested}}}
"""


def planned(folder: Path, text: str = "", tested: str = "") -> list[str]:
    if not (folder / "Tiny").is_dir():
        tiny.tiny_llama(folder / "Tiny")
    (folder / "r.yaml").write_text(RECIPE.format(text=text, tested=tested), encoding="utf-8")
    return [note for note in plan(load_recipe(folder / "r.yaml"), folder / "out").notes if "calibrates" in note]


def test_a_plan_says_that_the_mix_is_tested_on(tmp_path: Path) -> None:
    copy = tmp_path / "copy.txt"
    copy.write_text((mix.TEXTS / "english.txt").read_text("utf-8").replace("\n", " "), encoding="utf-8")
    wanted = ["stage 'four' calibrates on the default mix's english.txt, which holds 100% of the words of copy.txt"]
    assert planned(tmp_path, tested=", text: copy.txt") == wanted
    assert planned(tmp_path) == []


def test_a_plan_says_that_our_own_texts_are_calibrated_on(tmp_path: Path) -> None:
    ours = texts.default_files()[0]
    found = planned(tmp_path, text=f", text: {ours}")
    assert found == [f"stage 'four' calibrates on {ours.name}, which `validate` tests it on"]


def test_screenshots_and_items_that_are_tested_on_count(tested: Path) -> None:
    clicks = NANO / "heldout/clicks.jsonl"
    named = VALIDATE.tests(VALIDATE.Options(text=[tested], clicks=clicks, choices=["ours"]))
    assert {tested, clicks, NANO / "heldout/000.png", choices.OUR_FILE} <= set(named)
    assert not {*texts.default_files()} & {*named}
    digests = {path: path.name for path in named}
    assert "calibrates on 000.png, which `validate` tests it on" in overlaps([NANO / "heldout/000.png"], named, digests)


def test_the_report_says_it_too(tested: Path, tmp_path: Path) -> None:
    tiny.tiny_llama(tmp_path / "Tiny")
    (tmp_path / "half.txt").write_text(" ".join(tested.read_text("utf-8").split()[:400]), encoding="utf-8")
    for text, sentences_said in (("half.txt", 1), ("other.txt", 0)):
        (tmp_path / "other.txt").write_text(" ".join(sentences(60, seed=6)), encoding="utf-8")
        (tmp_path / "r.yaml").write_text(
            RECIPE.format(text=f", text: {text}", tested=", text: tested.txt"), encoding="utf-8"
        )
        run(plan(load_recipe(tmp_path / "r.yaml"), tmp_path / "out"))
        report = json.loads((tmp_path / "out/r/report.json").read_text("utf-8"))
        assert len(report.get("overlaps", [])) == sentences_said
        shown = [fact for fact in verdicts.facts(report) if fact.title == "Calibration"]
        assert len(shown) == sentences_said
        for form in ("report.md", "report.html"):
            page = (tmp_path / "out/r" / form).read_text("utf-8")
            assert ("the drift is understated" in page) == bool(sentences_said), form
        if sentences_said:
            assert report["overlaps"][0].startswith("stage 'four' calibrates on half.txt, which holds 49% of the words")
