"""A batch by a store: no file is shared but by it; what is there is not made again, whoever is killed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from convert.batch import stored, travel
from convert.batch.api import Batch
from convert.batch.options import Limits
from convert.cli import main
from convert.errors import PlanError
from convert.recipe import load_recipe
from convert.store.objects import Objects
from convert.store.steps import StepStore
from tests import batch_models
from tests.batch_models import made, ran, texts
from tests.batch_worker import ENVIRONMENT
from tests.test_batch_run import alone, bytes_of

RECIPE = "stages:\n  one: {use: upper}\n  two: {use: upper, suffix: '?', extra: extra.txt}\nvalidate: {limit: 100}\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    monkeypatch.setenv(stored.NODE_FOLDER, str(tmp_path / "node"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "extra.txt").write_text("extra")
    with batch_models.installed(monkeypatch):
        yield tmp_path


def by_store(batch: Batch, jobs: int = 1) -> Batch:
    return replace(batch, store=str(Path("store").absolute()), limits=Limits(jobs=jobs))


def without_paths(found: dict[str, bytes]) -> dict[str, bytes]:
    """Without the fake report, which says where files were when it was made."""
    return {name: text for name, text in found.items() if not name.endswith("report.json")}


def outputs(place: Path) -> dict[str, bytes]:
    return {f"{p.name}/{n}": b for p in (place / "out").glob("[a-z]*/") if p.is_dir() for n, b in bytes_of(p).items()}


def tries(place: Path) -> dict[str, int]:
    return {path.stem: int(path.read_text()) for path in place.glob("*.tries")}


def test_outputs_are_those_of_convert_run(place: Path) -> None:
    batch = by_store(made(place, texts(place, a="hello", b="world", bad="fail"), RECIPE))
    results, _ = ran(batch)
    assert {name: r.status for name, r in results.items()} == {"a": "passed", "b": "passed", "bad": "failed"}
    assert set(results["a"].ran) == {"source", "one", "two", "validate"}
    for name in "ab":
        alone(place, name)
        found = bytes_of(place / "out" / name)
        assert without_paths(found) == without_paths(bytes_of(place / "alone" / name))
        assert len(found) > 4
        assert (place / "out" / name / "logs/one.log").is_file()
    assert not list((place / "node/work").iterdir()), "nothing is left on the node but what it keeps"


def test_what_is_there_is_not_made_again(place: Path) -> None:
    files = texts(place, a="hello", b="world")
    ran(by_store(made(place, files, RECIPE)))
    before = outputs(place)
    for gone in ("out", "node"):
        shutil.rmtree(place / gone)
    results, events = ran(by_store(made(place, files, RECIPE)))
    assert {r.status for r in results.values()} == {"passed"}
    assert tries(place) == {"a": 2, "b": 2}, "each step was made once"
    assert not [event for event in events if event.kind == "model_started"], "and no process was asked"
    assert outputs(place) == before
    changed = RECIPE.replace("limit: 100", "limit: 99")
    results, _ = ran(by_store(made(place, files, changed)))
    assert {r.ran for r in results.values()} == {("validate",)}, "another report, of the same steps"


def test_killed_in_the_middle_only_what_was_missing_is_made(place: Path) -> None:
    files = texts(place, a="killed once", b="hello")
    results, events = ran(by_store(made(place, files, RECIPE), jobs=2))
    assert {r.status for r in results.values()} == {"passed"}
    assert tries(place) == {"a": 3, "b": 2}, "the step that was killed twice, all others once"
    assert [event.data["failure"] for event in events if event.kind == "model_retried"] == ["killed"]
    assert not list((place / "store").rglob("leases/*/*"))


def test_what_was_damaged_there_is_made_again(place: Path) -> None:
    files = texts(place, a="hello")
    ran(by_store(made(place, files, RECIPE)))
    for path in (place / "store/blobs").rglob("*"):
        if path.is_file() and path.read_bytes().startswith(b"HELLO"):
            path.write_bytes(b"X" * path.stat().st_size)
    before = outputs(place)
    for gone in ("out", "node"):
        shutil.rmtree(place / gone)
    results, _ = ran(by_store(made(place, files, RECIPE)))
    assert results["a"].status == "passed"
    assert outputs(place) == before


def test_only_the_report_comes_here(place: Path) -> None:
    results, _ = ran(by_store(made(place, texts(place, a="hello"), RECIPE, keep="report")))
    assert results["a"].status == "passed"
    assert (place / "out/a/report.json").is_file()
    assert not (place / "out/a/one").exists()


def test_a_key_is_the_same_where_files_lie_elsewhere(place: Path) -> None:
    """Two files of one name, told apart by their folders, as they are here and as they are on a node."""
    for folder in ("x", "y"):
        (place / folder).mkdir()
        (place / folder / "t.txt").write_text(folder)
    recipe = "stages:\n  one: {use: upper, extra: x/t.txt}\nvalidate: {text: y/t.txt}\n"
    (job,) = made(place, texts(place, a="hello"), recipe).jobs
    store = StepStore(Objects(str(place / "store")))
    told = travel.send(job, store)
    received = travel.receive(told, store, place / "elsewhere")
    here = load_recipe(job.path)
    assert received.sha256 == here.sha256 == job.sha256
    for name, spec in received.stages.items():
        for path, theirs in zip(
            travel.named_paths(here.stages[name].options), travel.named_paths(spec.options), strict=True
        ):
            assert theirs == place / "elsewhere/root" / str(path.absolute())[1:]
            assert theirs.read_bytes() == path.read_bytes()


def test_a_store_that_may_not_be_written_to(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, name: str, data: bytes) -> None:
        raise PermissionError("denied")

    monkeypatch.setattr(Objects, "write", refuse)
    with pytest.raises(PlanError, match=r"--store: .*/store cannot be written to \(PermissionError: denied\)"):
        list(by_store(made(place, texts(place, a="hello"))).run())


def test_by_the_command_line(place: Path) -> None:
    texts(place, a="hello")
    (place / "r.yaml").write_text(RECIPE)
    words = ["batch", "a.gguf", "--recipe", "r.yaml", "--store", "store", "--node-cache", "1MB"]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert (place / "out/a/one/upper.txt").read_text() == "HELLO!"
