"""What each stage would make of a checkpoint, and how large: the stages' own checks and forecasts, no recipe needed.

So it cannot say otherwise than a plan of a recipe that asks for the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from convert import registry
from convert.bundle import Artifact, Bundle, Role
from convert.errors import ConvertError, Problem
from convert.formats.base import Asked, Output, Sample
from convert.inspection.checkpoint import CheckpointInspection
from convert.json_types import JsonDict
from convert.model.memory_needs import weights_of
from convert.model.reference import check_memory
from convert.stage import missing_packages
from convert.table import plain, size
from convert.validation.outputs import outputs

SHOWN = 3  # of a stage's problems
WINDOW = 512  # tokens, of a model that takes as many


@dataclass(frozen=True)
class PreviewOutput:
    """Files that go together. `bits_per_weight` is of all their bytes; None for what is no model of its own."""

    name: str
    size: int
    bits_per_weight: float | None


@dataclass(frozen=True)
class Preview:
    """What a stage would make, or why it cannot; `notes` are the stage's own words on it."""

    stage: str
    words: str
    outputs: tuple[PreviewOutput, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The stage, and what it was asked where it was asked twice."""
        return f"{self.stage} {self.words}".strip()

    def lines(self, *, verbose: bool = False, like: str = "") -> Iterator[str]:
        """The preview as text; with `verbose` every problem and note. `like` is who has the same problems."""
        start = self.label
        if self.problems and like:
            yield f"  {start:<12} not possible, for the same reason as {like}"
            return
        for number, output in enumerate(self.outputs):
            bits = f"{output.bits_per_weight:9.2f} bits a weight" if output.bits_per_weight else ""
            yield f"  {'' if number else start:<12} {plain(output.name):<12} {size(output.size):>8}{bits}".rstrip()
        shown = self.problems if verbose else self.problems[:SHOWN]
        for number, problem in enumerate(shown):
            yield f"  {'' if number else start:<12} not possible: {plain(problem)}"
        if len(shown) < len(self.problems):
            yield f"  {'':<12} and {len(self.problems) - len(shown)} more (-v shows them)"
        if verbose:
            yield from (f"  {'':<12} {plain(note)}" for note in self.notes)


@dataclass(frozen=True)
class Reference:
    """What running the source on transformers takes, in bytes. `least` reads one layer at a time."""

    float32: int
    least: int
    machine: int | None  # None where the system does not say
    problems: tuple[str, ...]

    @property
    def label(self) -> str:
        """What it is called."""
        return "reference"

    def lines(self, *, verbose: bool = False, like: str = "") -> Iterator[str]:
        """The memory as text."""
        del verbose, like
        least = f", {size(self.least)} one layer at a time" if self.least < self.float32 else ""
        here = f"; this machine has {size(self.machine)}" if self.machine else ""
        yield f"  {self.label:<12} {size(self.float32)} of memory in float32{least}{here}"
        yield from (f"  {'':<12} cannot run here: {plain(problem)}" for problem in self.problems)


def preview(
    about: CheckpointInspection, bundle: Bundle | None, *, every: bool = False, quick: bool = False
) -> Iterator[Preview | Reference]:
    """The reference, then a word for each stage, those that have nothing to import first; nothing without a bundle.

    With `every` all the types that GGUF has; with `quick` without the stages that have much to import.
    """
    if bundle is None:
        return
    if found := reference(bundle):
        yield found
    made: dict[str, Bundle] = {"source": bundle}
    for asked in questions(about.shape.context or WINDOW, every=every):
        if quick and asked.slow:
            continue
        inputs = {asked.takes: made[asked.takes]} if asked.takes in made else {}
        preview_, forecast = _ask(asked, inputs, about)
        if forecast is not None:
            made.setdefault(asked.stage, forecast)
        yield preview_


def preview_json(about: CheckpointInspection, previews: Iterable[Preview | Reference]) -> JsonDict:
    """All of it as one JSON object."""
    parts = list(previews)
    references = [asdict(part) for part in parts if isinstance(part, Reference)]
    return {
        **asdict(about),
        "problems": [str(problem) for problem in about.problems],
        "reference": references[0] if references else None,
        "stages": [asdict(part) for part in parts if isinstance(part, Preview)],
    }


def questions(context: int, *, every: bool = False) -> list[Asked]:
    """What the stages of all formats are asked, those that have much to import last."""
    sample = Sample(str(_text()), max(16, min(WINDOW, context)), every)
    return sorted((asked for f in registry.formats() for asked in f.previews(sample)), key=lambda asked: asked.slow)


def reference(bundle: Bundle) -> Reference | None:
    """The source on transformers; None while its weights are pickles, whose headers nobody reads."""
    from validate import memory

    files = [a.path for a in bundle.of(Role.WEIGHTS) if a.path.is_file()]
    if not files:
        return None
    need = weights_of(bundle)
    found = check_memory(bundle, "reference")
    return Reference(
        need.full_bytes, need.layered_bytes, memory.total_bytes(), tuple(_said(p, "reference") for p in found)
    )


def _ask(asked: Asked, inputs: Mapping[str, Bundle], about: CheckpointInspection) -> tuple[Preview, Bundle | None]:
    """The stage's word, and its forecast where there is one."""
    stage = registry.load(asked.stage)
    if not inputs:
        return Preview(
            asked.stage, asked.words, problems=(f"takes the output of {asked.takes}, which is not possible",)
        ), None
    try:
        options = stage.Options.model_validate(asked.options)
        found = missing_packages(stage, asked.stage) or stage.check(options, inputs)
        if found:
            said = dict.fromkeys(_said(problem, asked.stage) for problem in found)
            return Preview(asked.stage, asked.words, problems=tuple(said)), None
        forecast = stage.forecast(options, inputs)
        notes = (*stage.notes(options), *stage.explain(options, inputs))
    except (ConvertError, OSError) as error:
        return Preview(asked.stage, asked.words, problems=(str(error),)), None
    outputs = tuple(_outputs(asked, forecast, about))
    return Preview(asked.stage, asked.words, outputs, notes=tuple(notes)), forecast


def _outputs(asked: Asked, forecast: Bundle, about: CheckpointInspection) -> Iterator[PreviewOutput]:
    """The rows that a report would have of it."""
    rows = outputs({asked.stage: forecast})
    for row in rows:
        bits = 8 * _bytes(row) / count if (count := _weights(row, about)) else None
        yield PreviewOutput(row.weights.type, _bytes(row), bits)
    if rows and rows[0].projector_apart and (projector := rows[0].projector):
        yield PreviewOutput(f"mmproj {projector.type}", rows[0].projector_size, None)
    if not rows:
        yield from (PreviewOutput(a.path.name, a.size, None) for a in _own(forecast))


def _own(forecast: Bundle) -> Iterator[Artifact]:
    """What a stage would make that no runtime runs: an importance matrix."""
    return (a for _, a in forecast.artifacts() if not a.path.is_absolute())


def _bytes(row: Output) -> int:
    """Of the model alone where its projector goes with every type of it."""
    return row.weights_size + (0 if row.projector_apart else row.projector_size)


def _weights(row: Output, about: CheckpointInspection) -> int:
    """How many weights are in those bytes."""
    if about.parameters is None:
        return 0
    has_tower = not row.projector_apart and not row.text_only
    return about.parameters.text + (about.parameters.vision if has_tower else 0)


def _said(problem: Problem, stage: str) -> str:
    """The problem without its place where that is the stage."""
    return str(problem).removeprefix(f"{stage}: ").removeprefix(f"stage '{stage}' ")


def _text() -> Path:
    import validate.texts

    return Path(validate.texts.__path__[0]) / "prose.txt"
