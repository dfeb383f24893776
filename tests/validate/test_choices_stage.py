"""Multiple-choice items from a recipe to the report, on real runtimes; a floor and a ranking beside them."""

from __future__ import annotations

import json
from pathlib import Path

from convert.bundle import Bundle
from convert.validation.stage import STAGE as stage
from tests.fixtures_validate import tiny_text
from tests.validate.test_validate_stage import report_of

__all__ = ["tiny_text"]  # fixtures

ITEM = {"query": "Two and two make", "choices": ["four", "five"], "answer": 0}


def test_items_of_ours_and_of_a_file_are_in_the_report(tiny_text: dict[str, Bundle], tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps(ITEM) + "\n" + json.dumps(ITEM | {"answer": 1}) + "\nno item, and never read\n")
    options = stage.Options(
        choices=["ours", path],
        choices_limit=2,
        tokens=256,
        window=48,
        threads=1,
        limits={"F32": {"flips": 0, "choice_drop": 0, "mcnemar_p": 0.05}},
    )
    assert stage.reads(options) == [path]
    assert [p.where for p in stage.check(options, tiny_text)] == []
    report, page = report_of(options, tiny_text, tmp_path)
    assert [(entry["name"], entry["items"]) for entry in report["choices"]] == [("ours", 2), ("items.jsonl", 2)]
    exact, rounded = report["outputs"]
    assert exact["status"] == "passed", exact["reason"]
    assert exact["choices"]["all"]["items"] == rounded["choices"]["all"]["items"] == 4
    assert exact["choices"]["all"]["right"] == exact["choices"]["all"]["right_reference"]
    assert [counts["name"] for counts in exact["choices"]["sets"]] == ["ours", "items.jsonl"]
    assert exact["choices"]["sets"][1]["right"] == 1  # the same item with the one answer and with the other
    assert exact["intervals"]["choice_accuracy"][0] < exact["metrics"]["choice_accuracy"]
    assert "## Answers to multiple-choice items" in page
    assert report["noise_floor"][0]["output"] == exact["label"]
    assert exact["above_floor"] == 1.0
    assert rounded["above_floor"] > 1.0
    assert report["ranking"]["groups"] == [[exact["label"]], [rounded["label"]]]
    (told,) = report["ranking"]["duels"]
    assert told["low"] <= told["by"] <= told["high"]


def test_no_items_are_asked_where_none_are_named(tiny_text: dict[str, Bundle], tmp_path: Path) -> None:
    report, page = report_of(stage.Options(tokens=96, window=48, threads=1), tiny_text, tmp_path)
    assert "choices" not in report
    assert report["outputs"][0]["choices"] is None
    assert "multiple-choice" not in page


def test_what_is_no_item_is_a_problem_of_the_plan(tiny_text: dict[str, Bundle], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"question": "q", "choices": ["a", "b"]}\n')
    (missing,) = stage.check(stage.Options(choices=tmp_path / "none.jsonl"), tiny_text)
    assert "no file" in str(missing)
    assert "none.jsonl" in str(missing)
    (problem,) = stage.check(stage.Options(choices=["ours", wrong]), tiny_text)
    assert "wrong.jsonl:1: nothing under answer" in str(problem)
