"""`convert verify --rebuild`: the recipe run again from the source, elsewhere, its bytes held against a release's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from convert.errors import InputError, raise_all
from convert.events import OnEvent
from convert.plan import plan
from convert.progress import Silent
from convert.recipe import Recipe
from convert.registry import VALIDATE
from convert.release.hashing import hash_file
from convert.release.repository import Repository, lay_out
from convert.release.rows import collect
from convert.release.sums import RELEASE, read_release
from convert.release.triton import repository as triton_repository
from convert.release.verify import Finding
from convert.release_options import ReleaseOptions
from convert.run import run


def rebuild(recipe: Recipe, scratch: Path, on_event: OnEvent) -> list[Repository]:
    """The recipe's outputs made again below `scratch`, laid out as a release has them. Nothing is validated."""
    stages = {name: spec for name, spec in recipe.stages.items() if name != VALIDATE}
    again = replace(recipe, stages=stages)
    planned = plan(again, scratch)
    raise_all(planned.problems)
    run(planned, on_event)
    made = collect(again, scratch, Silent())
    options = recipe.release or ReleaseOptions.model_validate({})
    rows = [replace(row, status="passed") for row in made.rows]
    found = lay_out(made, rows, options.name, None)
    served = triton_repository(made, rows, options)
    return [*found, *([] if served is None else [served])]


def differences(folder: Path, repositories: list[Repository]) -> tuple[int, list[Finding]]:
    """How many of a release's files were made again, and those of which the bytes are others. Raises InputError."""
    words, published = read_release(folder / RELEASE)
    made = next((one for one in repositories if one.name == words["name"]), None)
    if made is None:
        names = ", ".join(one.name for one in repositories)
        raise InputError(str(folder), f"is {words['name']}, and the recipe makes {names}", "the release's own recipe")
    findings, compared = [], 0
    for path, artifact in made.files.items():
        if path not in published:
            continue  # an output that was not published
        compared += 1
        if artifact.sha256 != published[path].sha256:
            now = hash_file(artifact.path, Silent(), published[path].part_bytes)
            pairs = zip(now.parts, published[path].parts, strict=False)
            number = next((i for i, (a, b) in enumerate(pairs) if a != b), 0)
            start = number * now.part_bytes
            findings.append(Finding(path, "is not what the recipe makes now", (start, start + now.part_bytes)))
    return compared, findings
