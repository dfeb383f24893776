"""Stages that make text files at once, so that the pipeline can be tested without a model."""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field

from convert import stages
from convert.bundle import Artifact, Bundle, Model, Role
from convert.errors import Problem
from convert.files import write_text
from convert.options import Options, RecipePath


class SourceOptions(Options):
    path: RecipePath
    hub: str = ""


class UpperOptions(Options):
    suffix: str = "!"
    times: int = Field(1, ge=1, le=9)
    extra: RecipePath | None = None


class ReportOptions(Options):
    limit: float = 100
    text: RecipePath | None = None


def _source() -> Any:
    stage = _module("source", "A text file that stands for a checkpoint.", SourceOptions)
    stage.reads = lambda options: [options.path]
    stage.check = lambda options, inputs: (
        [] if options.path.is_file() else [Problem(str(options.path), "is not there", "a file", "check the path")]
    )
    stage.forecast = lambda options, inputs: _bundle(options)
    stage.run = lambda options, inputs, out, progress: _bundle(options)
    stage.locate = lambda options, download, progress: options.path
    return stage


def _bundle(options: SourceOptions) -> Bundle:
    artifact = Artifact("text", options.path.absolute(), options.path.stat().st_size)
    return Bundle(Model(options.path.stem), {Role.WEIGHTS: (artifact,)})


def _upper() -> Any:
    stage = _module("upper", "The text in capitals.", UpperOptions)
    stage.runs = []

    def run(options: UpperOptions, inputs: stages.Inputs, out: Path, progress: Any) -> Bundle:
        source = stages.only(inputs)
        text = source.of(Role.WEIGHTS)[0].path.read_text()
        progress.start("capitals", len(text))
        progress.advance(len(text))
        stage.runs.append(text)
        if text.startswith("fail"):
            raise RuntimeError("the text says so")
        if text.startswith("stop"):
            raise KeyboardInterrupt
        made = write_text(out / "upper.txt", text.upper() + options.suffix * options.times, "text/UPPER")
        return source.with_(weights=made)

    stage.run = run
    stage.forecast = lambda options, inputs: stages.only(inputs).with_(
        weights=Artifact("text/UPPER", Path("upper.txt"), stages.only(inputs).of(Role.WEIGHTS)[0].size + 1)
    )
    return stage


def _validate() -> Any:
    stage = _module("validate", "How long each text is.", ReportOptions)

    def run(options: ReportOptions, inputs: stages.Inputs, out: Path, progress: Any) -> Bundle:
        outputs = ",".join(
            f'{{"stage": "{name}", "path": "{a.path}", "size_bytes": {a.size}, "metrics": {{}}, "reason": "too long",'
            f' "status": "{_status(bundle, a.size, options.limit)}", "neutral": false}}'
            for name, bundle in inputs.items()
            if name != "source"
            for a in bundle.of(Role.WEIGHTS)
        )
        stage.runs.append(sorted(inputs))
        report = write_text(out / "report.json", f'{{"outputs": [{outputs}]}}', "json")
        page = write_text(out / "report.md", "# report", "markdown")
        return inputs["source"].with_(report=(report, page))

    stage.runs = []
    stage.run = run
    stage.forecast = lambda options, inputs: inputs["source"].with_(report=Artifact("json", Path("report.json"), 100))
    return stage


class ExistingOptions(Options):
    path: RecipePath


def existing() -> Any:
    """A stage that takes a file as it lies there; not among those that are installed unasked."""
    stage = _module("existing", "A file of somebody else.", ExistingOptions)

    def run(options: ExistingOptions, inputs: stages.Inputs, *_: Any) -> Bundle:
        path = options.path.absolute()
        return stages.only(inputs).with_(weights=Artifact("text/THEIRS", path, path.stat().st_size))

    stage.run = stage.forecast = run
    return stage


def _status(bundle: Bundle, size: int, limit: float) -> str:
    return "not_run" if bundle.not_built else "passed" if size <= limit else "failed"


def _module(name: str, doc: str, options: type[Options]) -> Any:
    stage = types.SimpleNamespace(__name__=name, __doc__=doc, VERSION=1, TOOLS=(), NEEDS={}, Options=options)
    stage.check = lambda options, inputs: []
    options.__module__ = f"tests.fake.{name}"
    return stage


@contextmanager
def installed(monkeypatch: Any) -> Iterator[dict[str, Any]]:
    """Put the fakes in the place of the real stages; gives them by name, to be bent further."""
    fakes = {"source": _source(), "upper": _upper(), "validate": _validate()}
    monkeypatch.setattr(stages, "names", lambda: sorted(fakes))
    monkeypatch.setattr(stages, "load", lambda name: fakes[name])
    yield fakes
