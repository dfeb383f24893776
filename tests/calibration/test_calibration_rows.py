"""Rows are what they were for every recipe: their hashes are of the rows drawn before they moved here."""

from __future__ import annotations

from pathlib import Path

import pytest

from convert.calibration.rows import Description, digest, first_windows, make_rows, mix_windows
from tests import tiny
from tests.fixtures_gptq import NANO
from validate.runtimes._folder import CheckpointFolder
from validate.texts import tokens_sha256

ROOT = Path(__file__).parents[2]
TEXT, CLICKS = str(NANO / "heldout/train_text.txt"), str(NANO / "heldout/clicks.jsonl")
CHAT, PROSE = str(ROOT / "validate/texts/tools.jsonl"), str(ROOT / "validate/texts/prose.txt")


@pytest.fixture(scope="module")
def nano() -> CheckpointFolder:
    return CheckpointFolder(NANO)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> CheckpointFolder:
    return CheckpointFolder(tiny.tiny_llama(tmp_path_factory.mktemp("llama") / "Tiny"))


@pytest.mark.parametrize(
    ("asked", "rows", "sha256"),
    [
        (Description(text=TEXT, samples=5, length=64), 5, "4fc1fe2c07d36effa0d91bc6a013bb4a"),
        (Description(text=TEXT, samples=9, length=96, seed=7), 9, "2f7eb887558705963ccd344cf265a46d"),
        (Description(chat=CHAT, samples=4, length=128), 4, "24e89742c024a3549c9d7f034fef447a"),
        (Description(TEXT, CHAT, CLICKS, samples=12, length=64, seed=3), 12, "17d02f3b4ed622460dc795b314b04626"),
    ],
)
def test_rows_of_files_are_those_of_before(asked: Description, rows: int, sha256: str, nano: CheckpointFolder) -> None:
    made = make_rows(nano, asked)
    assert (len(made), digest(made)[:32]) == (rows, sha256)


def test_rows_with_bos_are_those_of_before(llama: CheckpointFolder) -> None:
    made = make_rows(llama, Description(text=PROSE, samples=6, length=48, seed=1))
    assert digest(made) == "ce279a5eb997dd2478a2acd89458756974ea76713f07cdf32b39d573c7c55c13"


def test_windows_of_a_text_are_those_of_before(nano: CheckpointFolder, llama: CheckpointFolder) -> None:
    special = first_windows(nano, Path(TEXT), 7, 64, parse_special=True)
    plain = first_windows(nano, Path(TEXT), 7, 64)
    led = first_windows(llama, Path(PROSE), 11, 48)
    assert [tokens_sha256(windows) for windows in (special, plain, led)] == [
        "c4075975fd401fb59656177a5f113e8fe58564f89a98c3bcc0f9b4870becb76d",
        "be9a24b391823c3fe9dbb6018594ae24f1d7fb548d5feb7a664f19d2437aad5c",
        "c7bfa90dbc6ecdbe3a19d8d5764327dc4887b684425aaba42b7f38dbd80612c4",
    ]


def test_no_file_means_the_default_mix(nano: CheckpointFolder) -> None:
    rows = make_rows(nano, Description(samples=7, length=40, seed=2))
    assert [row["input_ids"][0].tolist() for row in rows] == mix_windows(nano, 7, 40, seed=2)
    assert all(row["attention_mask"].all() for row in rows)
