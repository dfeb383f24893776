from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from convert import load_recipe
from convert.progress import Silent
from convert.release import rows
from convert.release.rows import Made
from tests.release import finished
from tests.tiny import tiny_qwen2_5_vl


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run: Tiny-VL/, r.yaml, out/small/. Not to be written to."""
    place = tmp_path_factory.mktemp("release")
    model = tiny_qwen2_5_vl(place / "Tiny-VL")
    (model / "README.md").write_text(finished.CARD)
    (model / "LICENSE").write_text("You may.\n")
    (model / "NOTICE.txt").write_text("By us.\n")
    with pytest.MonkeyPatch.context() as patch:  # that the ids are right is proven elsewhere, and takes seconds
        patch.setattr("convert.formats.gguf.tokenizer_proof.prove_tokenizer", lambda *_: None)
        finished.finish(place)
    return place


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on the disk when is tested elsewhere, and a hundred files take seconds."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def place(built: Path, tmp_path: Path) -> Path:
    """A run of its own."""
    return shutil.copytree(built, tmp_path / "place")


@pytest.fixture
def made(place: Path) -> Made:
    return rows.collect(load_recipe(place / "r.yaml"), place / "out", Silent())


@pytest.fixture
def measured(place: Path, made: Made, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Every output has passed; what is put into this stands in the report instead."""
    statuses: dict[str, str] = {}
    monkeypatch.setattr(rows, "_report", lambda bundles: finished.report(made, statuses))
    return statuses
