"""Stages that make text files at once, so that the pipeline can be tested without a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field

from convert import registry
from convert.bundle import Artifact, Bundle, Model, Role
from convert.errors import Problem
from convert.files import write_text
from convert.options import Options, RecipePath
from convert.progress import Progress
from convert.stage import Inputs, Stage, only


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


class ExistingOptions(Options):
    path: RecipePath


class SourceStage(Stage[SourceOptions]):
    """A text file that stands for a checkpoint."""

    NAME, VERSION, Options = "source", 1, SourceOptions

    def reads(self, options: SourceOptions) -> list[Path]:
        return [options.path]

    def check(self, options: SourceOptions, inputs: Inputs) -> list[Problem]:
        there = options.path.is_file()
        return [] if there else [Problem(str(options.path), "is not there", "a file", "check the path")]

    def forecast(self, options: SourceOptions, inputs: Inputs) -> Bundle:
        artifact = Artifact("text", options.path.absolute(), options.path.stat().st_size)
        return Bundle(Model(options.path.stem), {Role.WEIGHTS: (artifact,)})

    def run(self, options: SourceOptions, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
        return self.forecast(options, inputs)


class UpperStage(Stage[UpperOptions]):
    """The text in capitals."""

    NAME, VERSION, Options = "upper", 1, UpperOptions

    def __init__(self) -> None:
        self.runs: list[str] = []

    def check(self, options: UpperOptions, inputs: Inputs) -> list[Problem]:
        return []

    def forecast(self, options: UpperOptions, inputs: Inputs) -> Bundle:
        size = only(inputs).of(Role.WEIGHTS)[0].size + 1
        return only(inputs).with_(weights=Artifact("text/UPPER", Path("upper.txt"), size))

    def run(self, options: UpperOptions, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
        text = only(inputs).of(Role.WEIGHTS)[0].path.read_text()
        progress.start("capitals", len(text))
        progress.advance(len(text))
        self.runs.append(text)
        if text.startswith("fail"):
            raise RuntimeError("the text says so")
        if text.startswith("stop"):
            raise KeyboardInterrupt
        made = write_text(out / "upper.txt", text.upper() + options.suffix * options.times, "text/UPPER")
        return only(inputs).with_(weights=made)


class ValidateStage(Stage[ReportOptions]):
    """How long each text is."""

    NAME, VERSION, Options = "validate", 1, ReportOptions

    def __init__(self) -> None:
        self.runs: list[list[str]] = []

    def check(self, options: ReportOptions, inputs: Inputs) -> list[Problem]:
        return []

    def forecast(self, options: ReportOptions, inputs: Inputs) -> Bundle:
        return inputs["source"].with_(report=Artifact("json", Path("report.json"), 100))

    def run(self, options: ReportOptions, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
        outputs = ",".join(
            f'{{"stage": "{name}", "path": "{a.path}", "size_bytes": {a.size}, "metrics": {{}}, "reason": "too long",'
            f' "status": "{_status(bundle, a.size, options.limit)}", "neutral": false}}'
            for name, bundle in inputs.items()
            if name != "source"
            for a in bundle.of(Role.WEIGHTS)
        )
        self.runs.append(sorted(inputs))
        report = write_text(out / "report.json", f'{{"outputs": [{outputs}]}}', "json")
        page = write_text(out / "report.md", "# report", "markdown")
        return inputs["source"].with_(report=(report, page))


class ExistingStage(Stage[ExistingOptions]):
    """A file of somebody else; not among those that are installed unasked."""

    NAME, VERSION, Options = "existing", 1, ExistingOptions

    def check(self, options: ExistingOptions, inputs: Inputs) -> list[Problem]:
        return []

    def forecast(self, options: ExistingOptions, inputs: Inputs) -> Bundle:
        path = options.path.absolute()
        return only(inputs).with_(weights=Artifact("text/THEIRS", path, path.stat().st_size))

    def run(self, options: ExistingOptions, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
        return self.forecast(options, inputs)


def existing() -> ExistingStage:
    """A stage that takes a file as it lies there."""
    return ExistingStage()


def _status(bundle: Bundle, size: int, limit: float) -> str:
    return "not_run" if bundle.not_built else "passed" if size <= limit else "failed"


@contextmanager
def installed(monkeypatch: Any) -> Iterator[dict[str, Any]]:
    """Put the fakes in the place of the real stages; gives them by name, to be bent further."""
    fakes: dict[str, Any] = {"source": SourceStage(), "upper": UpperStage(), "validate": ValidateStage()}
    monkeypatch.setattr(registry, "names", lambda: sorted(fakes))
    monkeypatch.setattr(registry, "load", lambda name: fakes[name])
    yield fakes
