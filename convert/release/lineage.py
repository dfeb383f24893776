"""What each published file was made of, for cards and provenance: stages, options, texts, packages, source files.

All of it is in the keys of the steps already, without a path of any machine.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from convert.formats.base import SOURCE
from convert.hashes import HashMemory
from convert.progress import Silent
from convert.registry import VALIDATE
from convert.release.rows import Made, Row
from convert.steps import Step


@dataclass(frozen=True)
class Text:
    """A file that something was calibrated or measured on."""

    name: str
    sha256: str
    use: str  # calibration, validation


def steps_of(made: Made, rows: Iterable[Row]) -> list[Step]:
    """The steps behind these rows, in the order in which they ran."""
    steps = {step.name: step for step in made.planned.steps}
    wanted = {row.output.stage for row in rows}
    for name in reversed(steps):
        if name in wanted:
            wanted.update(steps[name].spec.inputs)
    return [step for name, step in steps.items() if name in wanted]


def calibrated_on(made: Made, steps: Iterable[Step]) -> list[Text]:
    """What these steps were fitted to."""
    paths = [path for step in steps for path in step.stage.calibrates(step.spec.options) if path.is_file()]
    digests = _hashes(made).of(paths, Silent())
    return list(dict.fromkeys(Text(path.name, digests[path], "calibration") for path in paths))


def measured_on(made: Made) -> list[Text]:
    """What validation read."""
    if made.report is None:
        return []
    return [Text(entry["name"], entry["sha256"], "validation") for entry in made.report["texts"]]


def packages(made: Made, steps: Iterable[Step]) -> dict[str, str]:
    """Package -> version, of all that took part."""
    found: dict[str, str] = {}
    for step in steps:
        found |= {name: version for name, version in step.key_inputs["tools"].items() if _is_version(version)}
    if made.report is not None:
        found |= made.report["provenance"]["versions"]
    return dict(sorted(found.items()))


def _is_version(value: object) -> bool:
    return isinstance(value, str) and len(value) < 40 and value[:1].isdigit()


def source_files(made: Made) -> Mapping[str, str]:
    """Name -> sha256 of every file of the checkpoint."""
    step = next(step for step in made.planned.steps if step.name == SOURCE)
    files: Mapping[str, str] = step.key_inputs["files"]
    return files


def validated(made: Made) -> bool:
    """Whether the recipe measures its outputs."""
    return VALIDATE in made.recipe.stages


def timestamp() -> str | None:
    """When this is, by SOURCE_DATE_EPOCH; None without it: then equal inputs give equal bytes, whenever."""
    with contextlib.suppress(KeyError, ValueError, OverflowError):
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(os.environ["SOURCE_DATE_EPOCH"])))
    return None


def _hashes(made: Made) -> HashMemory:
    return made.planned.hashes


def calibrated_by_stage(made: Made, steps: Iterable[Step]) -> dict[str, list[str]]:
    """Step -> names of what it was fitted to."""
    return {step.name: [text.name for text in calibrated_on(made, [step])] for step in steps}


def stage_words(steps: Iterable[Step]) -> Iterator[dict[str, object]]:
    """Each step as the recipe asked for it."""
    for step in steps:
        inputs = step.key_inputs
        yield {
            "name": step.name,
            "use": step.spec.use,
            "key": step.key,
            "options": inputs["options"],
            "files": inputs["files"],
            "from": list(step.spec.inputs),
        }
