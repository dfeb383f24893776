"""What a validation writes down: a row for each output, and what it takes to measure the same again."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

from convert import registry
from convert.bundle import Artifact, Bundle, Role
from convert.distribution import version
from convert.errors import ConvertError
from convert.files import portable, write_text
from convert.formats.base import Output
from convert.progress import Progress
from convert.source import quantized
from convert.source.checkpoint import stored_config
from convert.validation.limits import addressed, limits_of, proven
from convert.validation.options import ValidateOptions
from validate import gates

if TYPE_CHECKING:
    from validate.choices import ItemSet
    from validate.contract import Check
    from validate.measurement import Measurement, TensorError
    from validate.reference import Cached
    from validate.report import Output as Entry
    from validate.report import Report
    from validate.report.schema import FileEntry, FormatEntry, ProvenanceEntry, ReferenceEntry, TextEntry
    from validate.report.schema_fit import FitEntry
    from validate.texts import Windows

FORMS = {"report.json": "json", "report.md": "markdown", "report.html": "html"}


def report_rows(
    options: ValidateOptions, out: Path, rows: Sequence[Output], found: Sequence[Measurement], source: Bundle
) -> list[Entry]:
    """The outputs' entries in the report, each held to its limits."""
    entries = []
    for row, measurement, right in zip(rows, found, proven(rows, found), strict=True):
        # images that could not be looked at are held to nothing but what the recipe itself asks of them
        held = replace(row, projector=None) if measurement.vision_reason else row
        limits = limits_of(options.limits, held, measurement.metrics, measurement.gives)
        limits = gates.without(limits, measurement.left_out)
        limits = gates.of_proven(limits, measurement.metrics) if right else limits
        entries.append(_report_row(out, row, _demanded(options, row, measurement), limits, source))
    return entries


def _demanded(options: ValidateOptions, row: Output, measurement: Measurement) -> Measurement:
    """With a failure where the recipe says that it has to run, and it did not."""
    demanded = options.require == "run" or addressed(tuple(options.require), row)
    if not (measurement.not_run and demanded):
        return measurement
    return replace(measurement, failures=[f"`require: run`, and {measurement.not_run}"])


def _report_row(
    out: Path, row: Output, measurement: Measurement, limits: Mapping[str, tuple[float, str]], source: Bundle
) -> Entry:
    """The output's entry in the report."""
    from validate.report import Subject, output

    weights, projector = row.weights, row.projector
    subject = Subject(
        row.stage,
        weights.format,
        weights.type,
        {**_file(out, weights), "size_bytes": row.weights_size},
        {**_file(out, projector), "size_bytes": row.projector_size} if projector else None,
        projector.type if projector else "",
        row.label,
        tuple(_file(out, file) for file in row.files),
    )
    entry = output(subject, _counted(measurement, row, source), limits)
    if fit := _fit(row):
        entry["fit"] = fit
    return entry


def _fit(row: Output) -> FitEntry | None:
    """How the row's types were chosen, as its stage wrote it down."""
    if row.fit is None or row.not_built:
        return None
    with contextlib.suppress(OSError, ValueError):
        return cast("FitEntry", json.loads(row.fit.path.read_bytes()))
    return None


def reference_entry(out: Path, source: Bundle, vocabulary: int, cached: Cached) -> ReferenceEntry:
    """What everything was compared with."""
    from validate.runtimes import transformers

    return {
        "model": source.model.name,
        "hub": source.model.hub,
        "revision": source.model.revision,
        "runtime": transformers.RUNTIME.version(),
        "dtype": "float32",
        "vocabulary": vocabulary,
        "files": [_file(out, artifact) for artifact in source.of(Role.WEIGHTS)],
        "cache": {
            "whole": cached.whole,
            "bytes": cached.bytes,
            "tokens_kept": cached.tokens_kept,
            "tail_mass": cached.tail_mass,
            "tail_mass_max": cached.tail_mass_max,
        },
        **_odd(source),
    }


class _Odd(TypedDict, total=False):
    quantized: str
    taken_as: str


def _odd(source: Bundle) -> _Odd:
    """By what the source's own weights are quantized, and by whose class it is read, where that is to be said."""
    home = next(artifact.path.parent for artifact in source.of(Role.CONFIG))
    words = stored_config(home).get(quantized.KEY)
    found: _Odd = {"quantized": quantized.description(words)} if words else {}
    return {**found, "taken_as": source.model.taken_as} if source.model.taken_as else found


def report(
    out: Path, compared_with: ReferenceEntry, windows: Windows, outputs: Sequence[Entry], provenance: ProvenanceEntry
) -> Report:
    """report.json."""
    from validate.report import SCHEMA_VERSION

    return {
        "schema_version": SCHEMA_VERSION,
        "recipe": out.parent.name,
        "reference": compared_with,
        "texts": [
            cast("TextEntry", asdict(replace(entry, source=portable(entry.source)))) for entry in windows.entries
        ],
        "window": max(map(len, windows.tokens)),
        "formats": formats(outputs),
        "outputs": list(outputs),
        "provenance": provenance,
    }


def with_standing(content: Report, measurements: Sequence[Measurement], items: Sequence[ItemSet]) -> Report:
    """The report with what is said of its outputs together, and the items that they were asked."""
    from validate import report

    found = report.with_standing(content, measurements)
    if items:
        found["choices"] = [{"name": one.name, "sha256": one.sha256, "items": len(one.items)} for one in items]
    return found


def formats(entries: Sequence[Entry]) -> dict[str, FormatEntry]:
    """How the formats of the outputs are shown."""
    from validate.report import FormatLook, format_entries

    present = {entry["format"] for entry in entries}
    kinds = {name: kind for name, (_, kind) in registry.kinds().items() if name in present}
    return format_entries({name: FormatLook(kind.title, kind.mark, kind.note) for name, kind in kinds.items()})


def provenance(progress: Progress, packages: Sequence[str]) -> ProvenanceEntry:
    """What has to be known to measure the same again."""
    from validate import provenance

    command = ["convert", *map(portable, sys.argv[1:])]  # however it was started
    return {
        "convert": version(),
        "recipe_sha256": progress.recipe_sha256,
        "command": shlex.join(command),
        "versions": provenance.versions(packages),
        "machine": provenance.machine(),
    }


def write(out: Path, content: Report) -> tuple[Artifact, ...]:
    """The report in every form there is."""
    from validate.report import to_html, to_json, to_markdown

    texts = (to_json(content), to_markdown(content), to_html(content))
    return tuple(write_text(out / name, text, FORMS[name]) for name, text in zip(FORMS, texts, strict=True))


def _counted(measurement: Measurement, row: Output, source: Bundle) -> Measurement:
    """With the source's weights counted where the runtime counts none: those that lie in the row's files."""
    from validate import memory

    parameters = memory.parameters([a.path for a in source.of(Role.WEIGHTS)], vision=row.shares_checkpoint)
    return replace(measurement, parameters=measurement.parameters or parameters)


def tensor_errors(row: Output, source: Bundle) -> list[TensorError]:
    """The error of each tensor, of formats that can say; none where the file or the source is not one we convert."""
    from convert.validation.tensors import compare_tensors

    if row.not_built:
        return []
    format_, _ = registry.kinds()[row.weights.format]
    with _reading(row):
        try:
            return compare_tensors(list(format_.tensor_pairs(row, _folder(source))))
        except ConvertError:
            return []


def stated(row: Output, source: Bundle) -> list[Check]:
    """What the output's files state of the model against the source's config; nothing where they cannot be read."""
    from validate.contract import Counter

    format_, _ = registry.kinds()[row.weights.format]
    counter = Counter()
    with _reading(row):
        try:
            for one in format_.hyperparameters(row, _folder(source)):
                counter.compare(one.name, one.wanted, one.got)
        except ConvertError:
            return []
    return [counter.check("hyperparameters", "what the files state of the model", "hyperparameters_equal")]


@contextlib.contextmanager
def _reading(row: Output) -> Iterator[None]:
    """Whatever a file under test makes its reader raise is the file's failure: it may be cut off or lie."""
    from validate.runtimes import RuntimeFailure

    try:
        yield
    except (ValueError, OSError, LookupError, TypeError, OverflowError) as error:
        raise RuntimeFailure(f"{row.weights.path.name} cannot be read: {error}") from error


def _folder(source: Bundle) -> Path:
    return next(iter(source.of(Role.CONFIG))).path.parent


def _file(out: Path, artifact: Artifact) -> FileEntry:
    path, home = artifact.path, out.parent
    name = path.relative_to(home).as_posix() if path.is_relative_to(home) else path.name
    return {"path": name, "size_bytes": artifact.size, "sha256": artifact.sha256}
