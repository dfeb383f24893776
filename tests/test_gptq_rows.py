"""What a model is calibrated on, and the note when it is also tested on it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convert import load_recipe, plan
from convert.calibration.rows import Description, digest, make_rows
from convert.errors import StageError
from convert.formats.compressed.calibrated_stage import Calibration
from tests import tiny
from tests.fixtures_gptq import NANO
from validate.runtimes._folder import CheckpointFolder


@pytest.fixture(scope="module")
def nano() -> CheckpointFolder:
    return CheckpointFolder(NANO)


def test_text_becomes_windows_of_its_tokens_and_the_seed_says_which(nano: CheckpointFolder) -> None:
    text = NANO / "heldout/train_text.txt"
    tokens = nano.tokenize(text.read_text(encoding="utf-8"))
    asked = Description(text=str(text), samples=5, length=64)
    rows = make_rows(nano, asked)
    starts = [
        next(i for i in range(0, len(tokens), 64) if tokens[i : i + 64] == row["input_ids"][0].tolist()) for row in rows
    ]
    assert len(rows) == 5
    assert starts == sorted(set(starts))
    assert digest(make_rows(nano, asked)) == digest(rows)
    assert digest(make_rows(nano, replace(asked, seed=1))) != digest(rows)


def test_bos_is_in_front_of_every_window_where_the_model_wants_it(tmp_path: Path) -> None:
    folder = CheckpointFolder(tiny.tiny_llama(tmp_path / "Tiny"))
    (tmp_path / "text.txt").write_text("\n".join(tiny._text()), encoding="utf-8")
    rows = make_rows(folder, Description(text=str(tmp_path / "text.txt"), samples=3, length=16))
    assert [row["input_ids"].shape for row in rows] == [(1, 16)] * 3
    assert {int(row["input_ids"][0, 0]) for row in rows} == {folder.identity().bos}


def test_conversations_are_rendered_with_the_models_template(nano: CheckpointFolder, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Good day."}]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": messages}) + "\n", encoding="utf-8")
    (row,) = make_rows(nano, Description(chat=str(tmp_path / "chat.jsonl")))
    assert row["input_ids"][0].tolist() == nano.tokenize(nano.render(messages, None, False))


def test_screenshots_come_with_their_patches_and_as_many_placeholders(nano: CheckpointFolder) -> None:
    text, clicks = NANO / "heldout/train_text.txt", NANO / "heldout/clicks.jsonl"
    rows = make_rows(nano, Description(text=str(text), screens=str(clicks), samples=6, length=64))
    seen = [row for row in rows if "pixel_values" in row]
    assert len(rows) == 6
    assert len(seen) == 3
    for row in seen:
        assert row["mm_token_type_ids"].sum() * 4 == len(row["pixel_values"]) == row["image_grid_thw"].prod()
        assert np.isfinite(row["pixel_values"]).all()


def test_a_text_too_short_is_refused(nano: CheckpointFolder, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("Hello.", encoding="utf-8")
    with pytest.raises(StageError, match="no row to calibrate on"):
        make_rows(nano, Description(text=str(tmp_path / "short.txt")))


RECIPE = """
name: r
model: {{path: Tiny}}
stages:
  four: {{use: gptq, group_size: 32, calibration: {{text: {calibration}, samples: 8, length: 32}}}}
validate: {{text: tested.txt}}
"""


@pytest.mark.parametrize(
    ("calibration", "said"),
    [
        ("tested.txt", ["stage 'four' calibrates on tested.txt, which `validate` tests it on"]),
        (
            "half.txt",
            ["stage 'four' calibrates on half.txt, which holds 50% of the lines of tested.txt"],
        ),
        ("other.txt", []),
    ],
)
def test_a_plan_says_when_what_is_calibrated_on_is_tested_on(calibration: str, said: list[str], tmp_path: Path) -> None:
    tiny.tiny_llama(tmp_path / "Tiny")
    lines = [f"Sentence number {i} of a text that is made up." for i in range(60)]
    texts = {"tested.txt": lines[:20], "half.txt": lines[10:40], "other.txt": lines[40:]}
    for name, part in texts.items():
        (tmp_path / name).write_text("\n".join(part), encoding="utf-8")
    (tmp_path / "r.yaml").write_text(RECIPE.format(calibration=calibration), encoding="utf-8")
    planned = plan(load_recipe(tmp_path / "r.yaml"), tmp_path / "out")
    assert [note for note in planned.notes if "calibrates" in note] == said


def test_a_plan_shows_the_calibration_in_the_words_of_the_recipe() -> None:
    assert str(Calibration(text=Path("t.txt"), samples=8)) == "{text: t.txt, samples: 8}"
