"""What two recipes of one model need only once.

Hashes of its files, what the reference said and what was measured lie below OUT/<recipe>/.convert, named by content: a
recipe that is made for the first time gets links to what another of the same model has. What does not fit it is not
looked at, and goes at the end of its run.

A step whose key another recipe has made already is copied from there: equal keys mean equal bytes. Weights that were
pickles, an importance matrix, statistics of a calibration are made once.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from convert.bundle import MANIFEST_NAME, Artifact, Bundle, Manifest
from convert.files import STATE_FOLDER, recover_folder
from convert.lock import hold
from convert.progress import Progress
from convert.publish import partial_folder, publish
from convert.registry import VALIDATE
from convert.steps import Plan, Step

HASHES = "hashes.json"
BY_CONTENT = ("reference", "measured")


@contextlib.contextmanager
def lent(folder: Path, others: Sequence[Path]) -> Iterator[None]:
    """What others have is in `folder` meanwhile, and after it too, unless the block raises."""
    state = folder / STATE_FOLDER
    lender = next((other / STATE_FOLDER for other in others if (other / STATE_FOLDER / HASHES).is_file()), None)
    if folder.exists() or lender is None:
        yield
        return
    try:
        with contextlib.suppress(OSError):
            _link(lender, state)
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # nothing else was in it
        raise


def _link(lender: Path, state: Path) -> None:
    state.mkdir(parents=True)
    shutil.copyfile(lender / HASHES, state / HASHES)  # by path and time of each file: one that changed is read again
    for name in BY_CONTENT:
        files = [path for path in (lender / name).glob("*") if path.is_file()]
        if files:
            (state / name).mkdir()
        for path in files:
            os.link(path, state / name / path.name)


# ---- steps


def take_over(planned: Plan, others: Sequence[Path], progress: Progress) -> None:
    """Publish the steps of the plan that other folders have made under the same keys."""
    todo = [step for step in planned.steps if not step.up_to_date and step.key and step.spec.use != VALIDATE]
    donors = {step.key: found for step in todo if (found := _donor(step, others)) is not None}
    if not donors:
        return
    (planned.folder / STATE_FOLDER).mkdir(parents=True, exist_ok=True)
    with hold(planned.folder):
        there = {step.name: step.bundle for step in planned.steps if step.up_to_date and step.bundle is not None}
        for step in todo:
            if step.key in donors and all(name in there for name in step.spec.inputs):
                inputs = {name: there[name] for name in step.spec.inputs}
                if (bundle := _taken(planned, step, inputs, donors[step.key], progress)) is not None:
                    there[step.name] = bundle


def _donor(step: Step, others: Sequence[Path]) -> Path | None:
    """The folder of a stage that was made under the step's key; only of the same stage can it be."""
    for manifest in (path for other in others for path in sorted(other.glob(f"*/{MANIFEST_NAME}"))):
        with contextlib.suppress(OSError, ValueError):
            if (
                not manifest.parent.name.endswith((".partial", ".old"))
                and Manifest.read(manifest.parent).key == step.key
            ):
                return manifest.parent
    return None


def _taken(planned: Plan, step: Step, inputs: Mapping[str, Bundle], donor: Path, progress: Progress) -> Bundle | None:
    """The step's bundle, copied; None where what is there is not what was made."""
    made, partial = Manifest.read(donor).bundle, partial_folder(step)
    read = planned.hashes.of(step.stage.reads(step.spec.options), progress)
    given = {(path.name, digest): path.absolute() for path, digest in read.items()}
    given |= {(a.path.name, a.sha256): a.path for bundle in inputs.values() for _, a in bundle.artifacts()}

    def place(artifact: Artifact) -> Artifact:
        if artifact.path.is_relative_to(donor):
            return replace(artifact, path=partial / artifact.path.relative_to(donor))
        return replace(artifact, path=given[artifact.path.name, artifact.sha256])  # it travels with the bundle

    recover_folder(step.out)
    try:
        shutil.copytree(donor, partial, ignore=shutil.ignore_patterns(MANIFEST_NAME))
        bundle = replace(made, roles={role: tuple(map(place, files)) for role, files in made.roles.items()})
        copied = {a.path: a.sha256 for _, a in bundle.artifacts() if a.path.is_relative_to(partial)}
        if planned.hashes.of(copied, progress) != copied:
            raise ValueError("changed after it was written")
        found = publish(planned, step, inputs, bundle, progress)
    except (OSError, KeyError, ValueError):  # then it is made
        shutil.rmtree(partial, ignore_errors=True)
        return None
    progress.note(f"{step.name}: as in {donor}, which has the same key")
    return found
