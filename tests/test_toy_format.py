"""A format and its runtime from another package go through everything without a line changed here.

The package is what pip would have installed: modules and a dist-info with entry points, on the path of a new process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import processes
from tests.tiny import tiny_llama

FORMAT = '''
"""Toy: the checkpoint's weights under another name, for a runtime that only this package has."""

import shutil
from pathlib import Path

from pydantic import Field

from convert.bundle import Artifact, Bundle, Role
from convert.formats.base import Asked, Format, Found, Kind, Output, Support
from convert.formats.facts import TensorSummary, facts
from convert.options import Options
from convert.source.safetensors import read_header
from convert.stage import Stage, checkpoint
from validate.marks import Mark

MAGIC = b"TOY!"


class ToyOptions(Options):
    note: str = Field("", description="what to write into the file")


class ToyStage(Stage[ToyOptions]):
    """The weights in Toy's own file."""

    NAME, VERSION, Options = "toy", 1, ToyOptions

    def check(self, options, inputs):
        return []

    def forecast(self, options, inputs):
        source = checkpoint("toy", inputs)
        size = len(MAGIC) + sum(a.size for a in source.of(Role.WEIGHTS))
        return source.with_(weights=Artifact("toy/T16", Path("model.toy"), size))

    def run(self, options, inputs, out, progress):
        source = checkpoint("toy", inputs)
        (weights,) = source.of(Role.WEIGHTS)
        home = source.of(Role.CONFIG)[0].path.parent
        for _, artifact in source.artifacts():
            if artifact.path.suffix != ".safetensors":
                shutil.copyfile(artifact.path, out / artifact.path.name)
        path = out / "model.toy"
        path.write_bytes(MAGIC + weights.path.read_bytes())
        progress.note(f"toy: {options.note}")
        return source.with_(weights=Artifact("toy/T16", path, path.stat().st_size))


def outputs(stage, bundle):
    for weights in bundle.of(Role.WEIGHTS):
        if weights.format in ("toy", "toy-unrun"):
            yield Output(stage, weights, named_by_file=True)


def supports(checkpoint):
    return Support()


def inspect(path, start):
    if not start.startswith(MAGIC):
        return None
    return facts(path, "Toy", path.stat().st_size, {"toy.magic": "TOY!"}, (TensorSummary("w", "T16", (2, 3), 12),))


def recognize(path, projector):
    if path.suffix != ".toy":
        return None
    return Found((Artifact("toy/T16", path, path.stat().st_size),), "a Toy file")


FORMAT = Format(
    name="toy", title="Toy", stages={"toy": "toy_format:STAGE"}, outputs=outputs, supports=supports, inspect=inspect,
    kinds=(Kind("toy", "Toy files", Mark("flag", "#123456"), ("toy",)),), recognize=recognize, wanted="a Toy file",
    previews=lambda sample: [Asked("toy")],
)
STAGE = ToyStage()
'''
RUNTIME = '''
"""Toy's runtime: transformers, on the weights taken out of the file."""

import tempfile
from pathlib import Path

from validate.runtimes import Runtime
from validate.runtimes import transformers


class ToyRuntime(Runtime):
    NAME, FORMATS, DISTRIBUTIONS = "Toy engine", ("toy",), ("toy-format",)

    def version(self):
        return "toy engine 7"

    def open(self, model, *, projector=None, context=512, threads=None):
        folder = Path(tempfile.mkdtemp(prefix="toy-"))
        for path in model.parent.iterdir():
            if path.suffix != ".toy":
                (folder / path.name).symlink_to(path)
        (folder / "model.safetensors").write_bytes(model.read_bytes()[4:])
        return transformers.RUNTIME.open(folder, threads=threads)


RUNTIME = ToyRuntime()
'''
ENTRY_POINTS = "[convert.formats]\ntoy = toy_format:FORMAT\n[convert.runtimes]\ntoy = toy_runtime:RUNTIME\n"
RECIPE = """name: demo
model: {path: Tiny}
stages:
  mine: {use: toy, note: hello}
validate: {tokens: 96, window: 32, limits: {T16: near-lossless}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("toy")
    site = place / "site"
    (site / "toy_format-7.dist-info").mkdir(parents=True)
    (site / "toy_format-7.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: toy-format\nVersion: 7\n")
    (site / "toy_format-7.dist-info/entry_points.txt").write_text(ENTRY_POINTS)
    (site / "toy_format.py").write_text(FORMAT)
    (site / "toy_runtime.py").write_text(RUNTIME)
    tiny_llama(place / "Tiny")
    (place / "r.yaml").write_text(RECIPE)
    return place


def convert(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(place / "site"), str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-m", "convert", *words]
    return processes.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def report(place: Path) -> Any:
    done = convert(place, "run", "r.yaml")
    assert done.returncode == 0, done.stderr
    assert "model.toy" in done.stdout
    assert "1 passed" in done.stdout
    return json.loads((place / "out/demo/report.json").read_text())


def test_it_is_planned(place: Path) -> None:
    done = convert(place, "plan", "r.yaml", "--out", "elsewhere")
    assert done.returncode == 0, done.stderr
    assert "model.toy" in done.stdout


def test_it_is_validated_on_its_own_runtime(report: Any) -> None:
    (row,) = report["outputs"]
    assert (row["format"], row["type"], row["status"]) == ("toy", "T16", "passed")
    assert row["runtime"] == "Toy engine (toy engine 7)"
    assert row["metrics"]["kl_mean"] == 0
    assert report["formats"]["toy"]["title"] == "Toy files"
    assert report["provenance"]["versions"]["toy-format"] == "7"


def test_the_pages_show_it(place: Path, report: Any) -> None:
    page = (place / "out/demo/report.html").read_text()
    assert "#123456" in page
    assert "model.toy" in (place / "out/demo/report.md").read_text()


def test_its_files_are_inspected(place: Path, report: Any) -> None:
    done = convert(place, "inspect", "out/demo/mine/model.toy")
    assert done.returncode == 0, done.stderr
    assert "Toy, " in done.stdout
    assert "toy.magic = 'TOY!'" in done.stdout


def test_a_checkpoint_says_what_it_would_make_of_it(place: Path) -> None:
    assert "T16" in convert(place, "inspect", "Tiny", "--quick").stdout


def test_recipes_schema_and_stages_know_its_words(place: Path) -> None:
    schema = json.loads(convert(place, "schema").stdout)
    titles = [entry["title"] for entry in schema["properties"]["stages"]["additionalProperties"]["oneOf"]]
    assert "toy" in titles
    assert "use: toy" in convert(place, "stages").stdout
    (place / "wrong.yaml").write_text(RECIPE.replace("use: toy", "use: tyo"))
    assert "did you mean 'toy'?" in convert(place, "plan", "wrong.yaml").stderr


def test_somebody_elses_file_is_judged(place: Path, report: Any) -> None:
    done = convert(place, "validate", "--candidate", "out/demo/mine/model.toy", "--reference", "Tiny", "--tokens", "64")
    assert done.returncode == 0, done.stderr
    assert "1 passed" in done.stdout


def test_its_release_is_laid_out(place: Path) -> None:
    from convert.bundle import Artifact
    from convert.formats.base import Output, plain_release

    output = Output("mine", Artifact("toy/T16", place / "out/demo/mine/model.toy", 1))
    release = plain_release(output, place / "out/demo/mine", "-Toy")
    assert (release.suffix, set(release.files)) == ("-Toy", {"model.toy"})


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ("toy_format:FORM", "toy_format:FORM does not load: module 'toy_format' has no attribute 'FORM'"),
        ("toy_fromat:FORMAT", "toy_fromat:FORMAT does not load: No module named 'toy_fromat'"),
    ],
)
def test_an_entry_point_that_leads_nowhere_is_named_with_its_package(place: Path, point: str, said: str) -> None:
    points = place / "site/toy_format-7.dist-info/entry_points.txt"
    points.write_text(ENTRY_POINTS.replace("toy_format:FORMAT", point))
    try:
        done = convert(place, "plan", "r.yaml", "--out", "elsewhere")
        assert (done.returncode, done.stderr) == (
            1,
            f"error: package toy-format: {said}; correct it, or `pip uninstall toy-format`\n",
        )
    finally:
        points.write_text(ENTRY_POINTS)


def test_without_its_runtime_it_is_not_run_and_the_report_says_why(place: Path) -> None:
    (place / "site/toy_format-7.dist-info/entry_points.txt").write_text(ENTRY_POINTS.partition("[convert.runtimes]")[0])
    try:
        done = convert(place, "run", "r.yaml", "--out", "bare")
        assert done.returncode == 3, done.stderr
        (row,) = json.loads((place / "bare/demo/report.json").read_text())["outputs"]
        assert row["status"] == "not_run"
        assert row["reason"] == "no runtime here runs model.toy; its format wants the runtime 'toy'"
    finally:
        (place / "site/toy_format-7.dist-info/entry_points.txt").write_text(ENTRY_POINTS)
