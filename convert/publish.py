"""A finished step gets its name: hashed, its manifest written, all of it on the disk, then one rename.

out/<recipe>/<stage>.partial/   being built
out/<recipe>/<stage>/           whole: every file and the folder were fsynced before the rename
out/<recipe>/<stage>.old/       the folder that a rename is just replacing; gone a moment later
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from convert.bundle import MANIFEST_NAME, Artifact, Bundle, Manifest, Role
from convert.errors import StageError
from convert.files import beside, replace_folder, replace_text, write_text
from convert.hashes import HashMemory
from convert.json_types import JsonObject
from convert.progress import Progress, Silent
from convert.steps import Plan, Step

REPORT_NAMES = ("report.json", "report.md", "report.html")


def partial_folder(step: Step) -> Path:
    """Where the step's files are made."""
    return beside(step.out, ".partial")


def publish(planned: Plan, step: Step, inputs: Mapping[str, Bundle], made: Bundle, progress: Progress) -> Bundle:
    """The bundle of what lies in the step's partial folder, under its final name.

    Raises StageError when a file that was read is not what the step's key was made from any more.
    """
    partial, memory = partial_folder(step), planned.hashes
    linked = _linked(inputs, made)
    memory.follow(linked)
    bundle = _hashed(made, memory, progress)
    _check_unchanged(step, inputs, bundle, memory)
    manifest = Manifest(step.name, step.spec.use, step.key, step.key_inputs, planned.recipe.sha256, bundle)
    write_text(partial / MANIFEST_NAME, manifest.to_json(partial))
    replace_folder(partial, step.out)
    memory.follow(linked)  # the folder that was replaced may have held links too
    bundle = bundle.moved(partial, step.out)
    memory.learn(a for _, a in bundle.artifacts() if a.path.is_relative_to(step.out))
    memory.save()
    return bundle


def retract_report(folder: Path) -> None:
    """Take the report away while the outputs it speaks of are being replaced."""
    for name in REPORT_NAMES:
        (folder / name).unlink(missing_ok=True)


def publish_report(folder: Path, bundles: Mapping[str, Bundle]) -> JsonObject | None:
    """The report's content, after its files were put at out/<recipe>/; None when nothing was validated."""
    report = None
    for bundle in bundles.values():
        for artifact in bundle.of(Role.REPORT):
            text, copy = artifact.path.read_text(encoding="utf-8"), folder / artifact.path.name
            if not copy.is_file() or copy.read_bytes() != text.encode():
                replace_text(copy, text)
            if artifact.kind == "json":
                report = json.loads(text)
    return report


def _hashed(bundle: Bundle, memory: HashMemory, progress: Progress) -> Bundle:
    """The bundle with the hash of every file; only files that were not made by us have to be read for it."""
    unknown = [a.path for _, a in bundle.artifacts() if not a.sha256]
    digests = memory.of(unknown, progress)

    def fill(artifact: Artifact) -> Artifact:
        return artifact if artifact.sha256 else replace(artifact, sha256=digests[artifact.path])

    return replace(bundle, roles={role: tuple(map(fill, files)) for role, files in bundle.roles.items()})


def _linked(inputs: Mapping[str, Bundle], made: Bundle) -> list[Path]:
    """The files of the inputs that have more than one name: the stage's own links, and those of steps beside it."""
    built = [bundle for bundle in inputs.values() if not bundle.not_built]
    given = {path: path.stat() for path in {a.path for bundle in built for _, a in bundle.artifacts()}}
    named = {(s.st_dev, s.st_ino) for a in {a.path for _, a in made.artifacts()} - given.keys() for s in [a.stat()]}
    return [path for path, s in given.items() if s.st_nlink > 1 or (s.st_dev, s.st_ino) in named]


def _check_unchanged(step: Step, inputs: Mapping[str, Bundle], made: Bundle, memory: HashMemory) -> None:
    given = [a for bundle in inputs.values() for _, a in bundle.artifacts() if not a.elsewhere]
    known = {a.path: a.sha256 for a in given if a.sha256}
    now = memory.of(known, Silent())
    changed = [path for path, digest in known.items() if now[path] != digest]
    if not inputs:  # the source: its files are in the key themselves
        kept = [a for _, a in made.artifacts() if not a.path.is_relative_to(partial_folder(step))]
        changed += [a.path for a in kept if not a.elsewhere and a.sha256 not in step.key_inputs["files"].values()]
    if changed:
        got = f"changed while stage '{step.name}' was reading it"
        raise StageError(str(changed[0]), got, "", "let nothing write to the model, then run again")
