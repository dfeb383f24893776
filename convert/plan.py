"""Recipe -> Plan: the steps in order, what each will do and why, and everything that would make it fail.

A step's key is sha256 over the stage's word and VERSION, this package's version, the options (files they name by
their content), the versions of the tools, and the keys of its inputs; the key of `source` holds the content hash of
every file of the checkpoint. So equal keys mean equal bytes, and all keys are known before anything runs.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from convert import registry
from convert.bundle import MANIFEST_NAME, Artifact, Bundle, Manifest, Role
from convert.distribution import RELEASE
from convert.errors import ConvertError, Problem
from convert.files import STATE_FOLDER
from convert.formats.base import SOURCE
from convert.hashes import HashMemory
from convert.json_types import JsonDict, JsonObject
from convert.keys import difference, label, plain, sha256, version
from convert.needs import Needs, Room
from convert.progress import Progress, Silent
from convert.recipe import Recipe, StageSpec
from convert.registry import VALIDATE, AnyStage
from convert.stage import Inputs, missing_packages
from convert.steps import Plan, Step, existing_folder
from convert.suggest import suggest
from convert.table import size
from convert.validation.overlap import overlaps
from validate import memory

DISK_MARGIN_BYTES = 64 << 20


def plan(  # noqa: PLR0913 - all but the first two by name
    recipe: Recipe,
    out: str | Path = "out",
    *,
    force: Collection[str] = (),
    progress: Progress | None = None,
    earlier: Plan | None = None,
    room: Room | None = None,
) -> Plan:
    """The plan of `recipe` with its outputs under `out`/<recipe name>; `force` names stages to run in any case.

    Reads headers and hashes files; writes nothing but the memory of those hashes. What is wrong is in the plan's
    `problems`, all of it, and never raised. `earlier` is a plan of the same recipe: what still
    holds of it is not looked at again. `room` is what there will be of memory and disk, where that is not what is free
    now; that of `earlier` counts on.
    """
    folder = Path(out).absolute() / recipe.name
    planner = _Planner(recipe, folder, frozenset(force), progress or Silent(), earlier)
    planner.room = room or planner.room
    return planner.planned()


def plan_verified(
    recipe: Recipe, out: str | Path = "out", *, force: Collection[str] = (), progress: Progress | None = None
) -> Plan:
    """As `plan`, every file read again, of inputs and outputs: a step whose bytes are not what they were has to run."""
    folder = Path(out).absolute() / recipe.name
    planner = _Planner(recipe, folder, frozenset(force), progress or Silent(), None)
    planner.hashes = HashMemory(folder / STATE_FOLDER / "hashes.json", trusting=False)
    return planner.planned()


def plan_again(recipe: Recipe, out: str | Path = "out", *, progress: Progress | None = None) -> Plan:
    """The plan to measure once more what is up to date, and to build nothing; `recipe` has a `validate:` section.

    A step that would have to write files of a model is left out, and said to be missing. That nothing is built is a
    problem. Otherwise as `plan`.
    """
    folder = Path(out).absolute() / recipe.name
    planner = _Planner(recipe, folder, frozenset({VALIDATE}), progress or Silent(), None)
    planner.builds = False
    return planner.planned()


class _Planner:
    def __init__(
        self, recipe: Recipe, folder: Path, force: frozenset[str], progress: Progress, earlier: Plan | None
    ) -> None:
        self.recipe, self.folder, self.force, self.progress = recipe, folder, force, progress
        self.hashes = earlier.hashes if earlier else HashMemory(folder / STATE_FOLDER / "hashes.json")
        self.earlier = {step.name: step for step in earlier.steps} if earlier else {}
        self.steps: dict[str, Step] = {}
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.overlaps: list[str] = []
        self.needs_download = False
        self.builds = earlier.builds if earlier else True
        self.room = earlier.room if earlier else Room()
        for name in sorted(force - set(recipe.stages)):
            remedy = suggest(name, recipe.stages)
            self.problems.append(Problem("--force", f"the recipe has no stage '{name}'", "", remedy))

    def planned(self) -> Plan:
        """All steps added, and all looked at."""
        for name in self.recipe.stages:
            self.add(name)
        self.check_anything()
        self.check_disk()
        self.note_leftovers()
        self.note_overlaps()
        if self.folder.is_dir():
            self.hashes.save()
        return self.plan()

    def plan(self) -> Plan:
        return Plan(
            self.recipe,
            self.folder,
            tuple(self.steps.values()),
            tuple(dict.fromkeys(self.problems)),
            self.hashes,
            tuple(self.notes),
            self.needs_download,
            self.force,
            self.builds,
            tuple(self.overlaps),
            self.room,
        )

    def add(self, name: str) -> None:
        spec = self.recipe.stages[name]
        out = self.folder / name
        waiting = [i for i in spec.inputs if not self.steps[i].key]
        self.notes += _stage(spec).notes(spec.options)
        if waiting or self._undownloaded(spec):
            reason = "waits for " + ", ".join(waiting) if waiting else "has to be downloaded first"
            self.steps[name] = Step(name, spec, out, "", {}, False, reason, None)
            self.problems += _missing_packages(self.recipe, name, spec) + _missing_files(self.recipe, name, spec)
            return
        try:
            self.steps[name] = self._known_step(name, spec, out)
        except (ConvertError, OSError) as error:
            self.problems += _as_problems(error, self.recipe.where_stage(name))
            self.steps[name] = Step(name, spec, out, "", {}, False, "cannot run: see below", None)

    def _undownloaded(self, spec: StageSpec) -> bool:
        """Whether the stage's files are not on this machine yet; then nothing that needs them can be planned."""
        if _stage(spec).fetched(spec.options):
            return False
        self.needs_download = True
        return True

    def _known_step(self, name: str, spec: StageSpec, out: Path) -> Step:
        inputs = {i: bundle for i in spec.inputs if (bundle := self.steps[i].bundle) is not None}
        if name == SOURCE and (problems := _check(self.recipe, name, spec, inputs)):
            self.problems += problems
            return Step(name, spec, out, "", {}, False, "cannot run: see below", None)
        key_inputs = self._key_inputs(spec)
        key = sha256(key_inputs)
        reason, bundle = self._why(name, out, key, key_inputs, self._at_hand(spec, inputs))
        if bundle is not None:
            self.notes += [f"stage '{name}': {said}" for said in _stage(spec).lacking(spec.options, bundle)]
            return Step(name, spec, out, key, key_inputs, True, "up to date", bundle)
        known = self.earlier.get(name)
        if known and known.key == key and not known.up_to_date:
            return known  # checked and forecast from the same inputs
        problems = [] if name == SOURCE else _check(self.recipe, name, spec, inputs)
        if problems := [*problems, *_unreplaceable(out, name), *self._within_outputs(spec)]:
            self.problems += problems
            return Step(name, spec, out, "", {}, False, "cannot run: see below", None)
        forecast = _under(out, _stage(spec).forecast(spec.options, inputs))
        if not self.builds and name != VALIDATE and any(a.path.is_relative_to(out) for _, a in forecast.artifacts()):
            forecast = replace(forecast, not_built=reason)
        needs = _stage(spec).needs(spec.options, inputs, forecast)
        work = _stage(spec).work(spec.options, inputs, forecast)
        if problems := self._check_memory(name, needs):
            self.problems += problems
        return Step(name, spec, out, key, key_inputs, False, reason, forecast, needs, work)

    def _check_memory(self, name: str, needs: Needs) -> list[Problem]:
        """That the step cannot fit into this machine's memory, said before anything has run."""
        free = memory.free_bytes() if self.room.memory_bytes is None else self.room.memory_bytes
        if not self.builds or free is None or needs.memory_bytes <= free:
            return []
        if self.room.memory_bytes is not None:
            got = f"stage '{name}' takes about {size(needs.memory_bytes)} of memory"
            wanted = f"at most the {size(free)} that all steps together may take"
            return [
                Problem(self.recipe.where_stage(name), got, wanted, "give them more, or run it where there is more")
            ]
        got = f"stage '{name}' takes about {needs.memory_bytes / 1e9:.1f} GB of memory"
        total = memory.total_bytes() or free
        wanted = f"at most the {free / 1e9:.1f} GB that are free"
        remedy = (
            f"this machine has {total / 1e9:.1f} GB: end what else runs on it"
            if needs.memory_bytes < total
            else f"this machine has {total / 1e9:.1f} GB: run it on one with more, or leave the stage out"
        )
        return [Problem(self.recipe.where_stage(name), got, wanted, remedy)]

    def _key_inputs(self, spec: StageSpec) -> JsonDict:
        stage = _stage(spec)
        files = sorted(set(stage.reads(spec.options)))
        digests = self.hashes.of(files, self.progress)
        return {
            "use": spec.use,
            "version": stage.VERSION,
            "options": plain(spec.options.model_dump(mode="python", by_alias=True)),
            "files": {label(path, files): digests[path] for path in files},
            "tools": {"convert": RELEASE}
            | {tool: version(tool) for tool in stage.tools(spec.options)}
            | dict(stage.versions(spec.options)),
            "inputs": {name: self._input_key(spec, name) for name in spec.inputs},
        }

    def _input_key(self, spec: StageSpec, name: str) -> str:
        """The input's key; a report without an output must not be taken for one with it."""
        step = self.steps[name]
        return "not built" if spec.use == VALIDATE and step.left_out else step.key

    def _why(
        self, name: str, out: Path, key: str, key_inputs: JsonObject, at_hand: Mapping[tuple[str, str], Path]
    ) -> tuple[str, Bundle | None]:
        """Why the step must run, or ("", its bundle) when what is on disk is what would be built."""
        if name in self.force:
            return "asked for by --force" if self.builds else "measured again", None
        try:
            manifest = Manifest.read(out)
        except (FileNotFoundError, NotADirectoryError):
            return "not built yet", None
        except (ValueError, OSError) as error:
            return f"its manifest cannot be read ({error})", None
        if manifest.key != key:
            return difference(manifest.key_inputs, key_inputs), None
        bundle = _relocated(manifest.bundle, out, at_hand)
        for _, artifact in bundle.artifacts():
            if not artifact.path.is_file():
                return f"{artifact.path.name} is missing", None
            if artifact.path.is_relative_to(out) and self._digest(artifact.path) != artifact.sha256:
                return f"{artifact.path.name} was changed after it was written", None
        return "", bundle

    def _at_hand(self, spec: StageSpec, inputs: Mapping[str, Bundle]) -> dict[tuple[str, str], Path]:
        """Where the files are that the step gets, by name and content."""
        found = {(a.path.name, a.sha256): a.path for bundle in inputs.values() for _, a in bundle.artifacts()}
        files = _stage(spec).reads(spec.options)
        digests = self.hashes.of(files, self.progress)
        found |= {(path.name, digest): path.absolute() for path, digest in digests.items()}
        if inputs:
            return found
        own = _stage(spec).forecast(spec.options, inputs)  # weights that stay on a server have no digest of a file's
        return found | {(a.path.name, a.sha256): a.path for _, a in own.artifacts() if a.elsewhere}

    def _within_outputs(self, spec: StageSpec) -> list[Problem]:
        """Files the step reads that lie where a stage's output will be put: replacing it would delete them."""
        homes = {(self.folder / name).resolve(): name for name in self.recipe.stages}
        return [
            Problem(
                str(path),
                f"lies in the output folder of stage '{homes[home]}', which is replaced when the stage runs",
                "",
                "move it, or name another --out",
            )
            for path in _stage(spec).reads(spec.options)
            for home in (path.absolute().resolve(), *path.absolute().resolve().parents)
            if home in homes
        ][:1]

    def _digest(self, path: Path) -> str:
        return self.hashes.of([path], self.progress)[path]

    def check_anything(self) -> None:
        """Whether there is something to measure, where nothing is built for it."""
        if self.builds or self.problems:
            return
        source = self.steps[SOURCE]
        given = () if source.bundle is None else source.bundle.of(Role.WEIGHTS)
        made = [step for name, step in self.steps.items() if name not in (SOURCE, VALIDATE)]
        outputs = [s for s in made if s.bundle is None or s.bundle.of(Role.WEIGHTS) != given]  # no imatrix
        if not source.left_out and any(s.bundle is not None and not s.left_out for s in outputs):
            return
        reasons = sorted({step.left_out or step.reason for step in (outputs or made or [source])})
        got = f"none of its outputs is built ({'; '.join(reasons)})"
        self.problems.append(Problem(str(self.recipe.path), got, "outputs to validate", "run it first: convert run"))

    def note_leftovers(self) -> None:
        """Outputs of an earlier state of the recipe; they are kept, and easily taken for outputs of this one."""
        for manifest in sorted(self.folder.glob(f"*/{MANIFEST_NAME}")):
            if manifest.parent.name not in self.recipe.stages and manifest.parent.suffix not in (".partial", ".old"):
                said = "of a stage that is no longer in the recipe; delete it when you no longer need it"
                self.notes.append(f"{manifest.parent}: {said}")

    def note_overlaps(self) -> None:
        """Stages that calibrate on what the recipe tests on."""
        used = {name: self.recipe.stages[name] for name in self.steps}
        tested = [p for spec in used.values() for p in _stage(spec).tests(spec.options)]
        for name, spec in used.items():
            calibrated = [path for path in _stage(spec).calibrates(spec.options) if path.is_file()]
            if calibrated and tested:
                digests = self.hashes.of([*calibrated, *tested], self.progress)
                self.overlaps += [f"stage '{name}' {said}" for said in overlaps(calibrated, tested, digests)]
        self.notes += self.overlaps

    def check_disk(self) -> None:
        """Whether the output folder can be made and written to, and holds what will be."""
        there = existing_folder(self.folder)
        if not there.is_dir():
            self.problems.append(Problem(str(there), "is a file", "a folder", "name another --out"))
            return
        if not all(step.up_to_date for step in self.steps.values()) and not os.access(there, os.W_OK | os.X_OK):
            remedy = "change its permissions or name another --out"
            self.problems.append(Problem(str(there), "cannot be written to", "", remedy))
        made = self.plan()
        need = made.write_bytes + made.scratch_bytes
        free = made.free_bytes if self.room.disk_bytes is None else self.room.disk_bytes
        if need and need + DISK_MARGIN_BYTES > free:
            self.problems.append(
                Problem(
                    str(self.folder),
                    f"{free / 1e9:.2f} GB are free",
                    f"{(need + DISK_MARGIN_BYTES) / 1e9:.2f} GB for what the run writes",
                    "free some, or name another disk with --out",
                )
            )


def _stage(spec: StageSpec) -> AnyStage:
    return registry.load(spec.use)


def _check(recipe: Recipe, name: str, spec: StageSpec, inputs: Inputs) -> list[Problem]:
    """What keeps the stage from running: packages that are missing, else what the stage itself finds."""
    found = _missing_packages(recipe, name, spec) or _stage(spec).check(spec.options, inputs)
    return [_placed(recipe, name, spec, problem) for problem in found]


def _placed(recipe: Recipe, name: str, spec: StageSpec, problem: Problem) -> Problem:
    """The problem at its line of the recipe, where the stage, which knows no recipe, named itself or its option."""
    if problem.where in (spec.use, name):
        return replace(problem, where=recipe.where_stage(name))
    from convert.options import words_of  # which imports pydantic: `convert --help` does not wait for it

    if problem.where in words_of(type(spec.options)):
        return replace(problem, where=recipe.where_stage(name, problem.where), got=f"{problem.where}: {problem.got}")
    return problem


def _missing_packages(recipe: Recipe, name: str, spec: StageSpec) -> list[Problem]:
    found = missing_packages(_stage(spec), name)
    return [replace(problem, where=recipe.where_stage(name)) for problem in found]


def _missing_files(recipe: Recipe, name: str, spec: StageSpec) -> list[Problem]:
    """Files an option names that are not there: what can be said of a step whose inputs are not known yet."""
    from convert.options import named_paths

    where, remedy = recipe.where_stage(name), "paths are relative to the recipe"
    return [Problem(where, f"no file {p}", "", remedy) for p in named_paths(spec.options) if not p.exists()]


def _unreplaceable(out: Path, name: str) -> list[Problem]:
    """What lies where the stage's output goes and is not an earlier output of it: it is somebody's, and stays."""
    ours = (out / MANIFEST_NAME).is_file() and not out.is_symlink()
    empty = out.is_dir() and not out.is_symlink() and not any(out.iterdir())
    if ours or empty or not (out.exists() or out.is_symlink()):
        return []
    got = f"exists, and no run of convert made it (stage '{name}' puts its output there)"
    return [Problem(str(out), got, "", "move it away, or name another --out")]


def _under(out: Path, bundle: Bundle) -> Bundle:
    """A forecast names the files a stage will make by their bare names; they will lie in `out`."""
    return replace(
        bundle,
        roles={r: tuple(replace(a, path=out / a.path) for a in files) for r, files in bundle.roles.items()},
    )


def _relocated(bundle: Bundle, out: Path, at_hand: Mapping[tuple[str, str], Path]) -> Bundle:
    """Files that travel with the bundle but lie elsewhere, where they lie now: the checkpoint may have been moved."""

    def find(artifact: Artifact) -> Artifact:
        if artifact.path.is_relative_to(out):
            return artifact
        return replace(artifact, path=at_hand.get((artifact.path.name, artifact.sha256), artifact.path))

    return replace(bundle, roles={role: tuple(map(find, files)) for role, files in bundle.roles.items()})


def _as_problems(error: Exception, where: str) -> list[Problem]:
    if isinstance(error, ConvertError):
        return [p if isinstance(p, Problem) else Problem(where, p) for p in error.problems]
    if isinstance(error, OSError):
        return [Problem(str(error.filename or where), f"cannot be read: {error.strerror or error}")]
    return [Problem(where, str(error))]
