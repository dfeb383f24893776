"""Plan -> Bundles: skip what is up to date, run the rest, publish each step in one rename.

out/<recipe>/<stage>.partial/   being built
out/<recipe>/<stage>/           whole: every file and the folder were fsynced before the rename
out/<recipe>/<stage>.old/       the folder that a rename is just replacing; gone a moment later
out/<recipe>/logs/<stage>.log   what the step said, and the traceback when it failed
out/<recipe>/.convert/          the lock, and the memory of file hashes
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from convert.bundle import MANIFEST_NAME, Artifact, Bundle, Manifest, Role
from convert.errors import BusyError, ConvertError, PlanError, Problem, StageError, raise_all
from convert.files import STATE_FOLDER, fsync_folder, replace_text, write_text
from convert.hashes import HashMemory
from convert.plan import Plan, Step, plan
from convert.progress import Progress, Silent
from convert.recipe import SOURCE

PROGRESS_SECONDS = 0.1
FULL = ("the disk is full", "free some space or name another disk with --out, then run again")
DISK_ERRORS = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,  # the user's share of it is
    errno.EFBIG: ("the disk takes no file as large as this", "name another disk with --out"),  # FAT32: 4 GiB
}
REPORT_NAMES = ("report.json", "report.md", "report.html")


@dataclass(frozen=True)
class Event:
    """Something a listener may want to show. `data` holds JSON values only.

    kind: plan, step_started, step_skipped, step_finished, task, progress, note, warning
    """

    kind: str
    step: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


Listener = Callable[[Event], None]


@dataclass(frozen=True)
class Result:
    """What a run left on disk. `report` is the content of report.json, None for a recipe that validates nothing."""

    folder: Path
    bundles: Mapping[str, Bundle]
    ran: tuple[str, ...]
    report: Mapping[str, Any] | None

    @property
    def passed(self) -> bool:
        """Whether every validated output passed, those left out that this machine has no device or kernels for.

        An output whose runtime is not installed did not pass.
        """
        if self.report is None:
            return True
        outputs = self.report["outputs"]
        return bool(outputs) and all(output["status"] == "passed" or output.get("neutral", False) for output in outputs)

    @property
    def exit_code(self) -> int:
        return 0 if self.passed else 3


def run(planned: Plan, listener: Listener = lambda event: None) -> Result:
    """Build every step of the plan that is not up to date.

    Raises PlanError when the plan has problems (nothing was started), BusyError when another run holds the output
    folder, StageError when a step fails; finished steps stay and the next run continues after them.
    """
    raise_all(planned.problems, PlanError)
    folder = planned.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / STATE_FOLDER).mkdir(exist_ok=True)
    except OSError as error:
        raise PlanError(Problem(str(folder), f"cannot be made: {error.strerror}", "", "name another --out")) from error
    with _hold(folder):
        for step in planned.steps:
            _recover(step.out)
        # What lies on disk may have changed between planning and holding the lock: the other run may have built it.
        planned = _replanned(planned, listener)
        listener(Event("plan", "", {"steps": [step_json(step) for step in planned.steps]}))
        for note in planned.notes:
            listener(Event("note", "plan", {"text": note}))
        memory = planned.hashes
        bundles: dict[str, Bundle] = {}
        if not all(step.up_to_date for step in planned.steps):
            _retract_report(folder)
        for step in planned.steps:
            if step.up_to_date and step.bundle is not None:
                listener(Event("step_skipped", step.name, {"reason": step.reason}))
                bundles[step.name] = step.bundle
            elif step.left_out and step.bundle is not None:
                listener(Event("warning", step.name, {"text": f"{step.name}: not validated: {step.left_out}"}))
                bundles[step.name] = step.bundle
            else:
                bundles[step.name] = _build(step, bundles, planned, memory, listener)
        report = _publish_report(folder, bundles)
    ran = tuple(step.name for step in planned.steps if not (step.up_to_date or step.left_out))
    return Result(folder, bundles, ran, report)


def _replanned(planned: Plan, listener: Listener) -> Plan:
    """The plan of this moment; a checkpoint that is still on the hub is fetched first."""
    with StepProgress(SOURCE, listener, planned.folder / "logs" / f"{SOURCE}.log") as progress:
        if planned.needs_download:
            for step in planned.steps:
                step.stage.fetch(step.spec.options, progress)
        out = planned.folder.parent
        now = plan(planned.recipe, out, force=planned.force, progress=progress, earlier=planned)
    raise_all(now.problems, PlanError)
    return now


def _build(step: Step, bundles: Mapping[str, Bundle], planned: Plan, memory: HashMemory, listener: Listener) -> Bundle:
    """Run one step in its `.partial` folder and publish it."""
    partial = _beside(step.out, ".partial")
    started = time.monotonic()
    listener(Event("step_started", step.name, {"reason": step.reason, "write_bytes": step.write_bytes}))
    log = planned.folder / "logs" / f"{step.name}.log"
    recipe_hash = planned.recipe.sha256
    with (
        StepProgress(step.name, listener, log, step.key, recipe_hash) as progress,
        _failing(step, partial, progress),
    ):
        progress.note(f"stage {step.name}: {step.reason}")
        partial.mkdir()
        inputs = {name: bundles[name] for name in step.spec.inputs}
        bundle = step.stage.run(step.spec.options, inputs, partial, progress)
        linked = _linked(inputs, bundle)
        memory.follow(linked)
        bundle = _hashed(bundle, memory, progress)
        _check_unchanged(step, inputs, bundle, memory)
        manifest = Manifest(step.name, step.spec.use, step.key, step.ingredients, planned.recipe.sha256, bundle)
        write_text(partial / MANIFEST_NAME, manifest.to_json(partial))
        _publish(partial, step.out)
        memory.follow(linked)  # the folder that was replaced may have held links too
    bundle = bundle.moved(partial, step.out)
    memory.learn(a for _, a in bundle.artifacts() if a.path.is_relative_to(step.out))
    memory.save()
    files = [_artifact_json(a) for _, a in bundle.artifacts() if a.path.is_relative_to(step.out)]
    seconds = round(time.monotonic() - started, 3)
    listener(Event("step_finished", step.name, {"seconds": seconds, "folder": str(step.out), "files": files}))
    return bundle


def _hashed(bundle: Bundle, memory: HashMemory, progress: Progress) -> Bundle:
    """The bundle with the hash of every file; only files that were not made by us have to be read for it."""
    unknown = [a.path for _, a in bundle.artifacts() if not a.sha256]
    digests = memory.of(unknown, progress)

    def fill(artifact: Artifact) -> Artifact:
        return artifact if artifact.sha256 else replace(artifact, sha256=digests[artifact.path])

    return replace(bundle, roles={role: tuple(map(fill, files)) for role, files in bundle.roles.items()})


def _linked(inputs: Mapping[str, Bundle], made: Bundle) -> list[Path]:
    """The files of the inputs that the stage gave another name instead of copying them."""
    built = [bundle for bundle in inputs.values() if not bundle.not_built]
    given = {path: path.stat() for path in {a.path for bundle in built for _, a in bundle.artifacts()}}
    named = {(s.st_dev, s.st_ino) for a in {a.path for _, a in made.artifacts()} - given.keys() for s in [a.stat()]}
    return [path for path, status in given.items() if (status.st_dev, status.st_ino) in named]


def _check_unchanged(step: Step, inputs: Mapping[str, Bundle], made: Bundle, memory: HashMemory) -> None:
    """Raise StageError when a file that was read is not what the step's key was made from any more."""
    known = {a.path: a.sha256 for bundle in inputs.values() for _, a in bundle.artifacts() if a.sha256}
    now = memory.of(known, Silent())
    changed = [path for path, digest in known.items() if now[path] != digest]
    if not inputs:  # the source: its files are in the key themselves
        kept = [a for _, a in made.artifacts() if not a.path.is_relative_to(_beside(step.out, ".partial"))]
        changed += [a.path for a in kept if a.sha256 not in step.ingredients["files"].values()]
    if changed:
        got = f"changed while stage '{step.name}' was reading it"
        raise StageError(str(changed[0]), got, "", "let nothing write to the model, then run again")


@contextlib.contextmanager
def _failing(step: Step, partial: Path, progress: StepProgress) -> Iterator[None]:
    """Whatever goes wrong inside becomes one StageError, and the half-built folder goes away."""
    try:
        yield
    except BaseException as error:
        progress.trace(error)
        shutil.rmtree(partial, ignore_errors=True)
        where = f"stage '{step.name}'"
        if isinstance(error, PlanError):  # found only now, in what an earlier step made
            raise ConvertError(*error.problems) from error
        if isinstance(error, ConvertError) or not isinstance(error, Exception):
            raise  # it says all there is to say; or Ctrl-C
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            got, remedy = DISK_ERRORS[error.errno]
            raise StageError(where, f"{got} ({partial.parent})", "", remedy) from error
        if isinstance(error, MemoryError):
            raise StageError(where, "out of memory", "", "run it on a machine with more") from error
        got = f"{type(error).__name__}: {error}"
        raise StageError(where, got, "", f"the details are in {progress.path}") from error


def _publish(partial: Path, final: Path) -> None:
    """Give a finished folder its final name; at no moment does that name hold a part."""
    for folder, _, _ in os.walk(partial):
        fsync_folder(Path(folder))
    old = _beside(final, ".old")
    if final.exists():
        final.rename(old)
    partial.rename(final)
    fsync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def _recover(final: Path) -> None:
    """Clear what a killed run left: a half-built folder goes, a folder caught in the middle of its rename returns."""
    shutil.rmtree(_beside(final, ".partial"), ignore_errors=True)
    old = _beside(final, ".old")
    if old.exists() and not final.exists():
        old.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(folder.name + suffix)


def _retract_report(folder: Path) -> None:
    """Take the report away while the outputs it speaks of are being replaced."""
    for name in REPORT_NAMES:
        (folder / name).unlink(missing_ok=True)


def _publish_report(folder: Path, bundles: Mapping[str, Bundle]) -> Mapping[str, Any] | None:
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


@contextlib.contextmanager
def _hold(folder: Path) -> Iterator[None]:
    """Hold the output folder for this process; the lock goes with the process, however it ends."""
    import fcntl

    path = folder / STATE_FOLDER / "lock"
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another run"
            remedy = "wait for it, stop it, or give another --out"
            raise BusyError(Problem(str(folder), f"is held by {holder}", "", remedy)) from error
        file.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {since} ({' '.join(sys.argv)})")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


class StepProgress:
    """The Progress a stage is given: tells the listener, not too often, and writes the step's log, if it has one."""

    def __init__(
        self, step: str, listener: Listener, log: Path | None = None, key: str = "", recipe_sha256: str = ""
    ) -> None:
        self.path, self.key, self.recipe_sha256 = log, key, recipe_sha256
        self._step, self._listener = step, listener
        self._file: IO[str] | None = None
        self._what, self._unit, self._total, self._done, self._told = "", "B", 0, 0, 0.0

    def __enter__(self) -> StepProgress:
        return self

    def __exit__(self, *exception: object) -> None:
        self._finish()
        if self._file:
            self._file.close()

    def start(self, what: str, total: int, unit: str = "B") -> None:
        self._finish()
        self._what, self._unit, self._total, self._done, self._told = what, unit, total, 0, time.monotonic()
        self._write(f"{what} ({total} {unit})")
        self._listener(Event("task", self._step, {"what": what, "total": total, "unit": unit}))

    def advance(self, amount: int) -> None:
        self._done += amount
        if time.monotonic() - self._told >= PROGRESS_SECONDS:
            self._tell()

    def note(self, text: str) -> None:
        self._write(text)
        self._listener(Event("note", self._step, {"text": text}))

    def warn(self, text: str) -> None:
        self._write(f"warning: {text}")
        self._listener(Event("warning", self._step, {"text": text}))

    def trace(self, error: BaseException) -> None:
        """Keep the traceback in the log; the user gets one line."""
        self._write("".join(traceback.format_exception(error)))

    def _finish(self) -> None:
        if self._what:
            self._tell()
            self._what = ""

    def _tell(self) -> None:
        self._told = time.monotonic()
        data = {"what": self._what, "done": self._done, "total": self._total, "unit": self._unit}
        self._listener(Event("progress", self._step, data))

    def _write(self, text: str) -> None:
        if self.path is None:
            return
        # A log that cannot be written (the disk is full) must not hide the error it was to tell of.
        with contextlib.suppress(OSError):
            if self._file is None:
                self.path.parent.mkdir(exist_ok=True)
                self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed by __exit__
            self._file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
            self._file.flush()


def step_json(step: Step) -> dict[str, Any]:
    """What a plan says of one step, for scripts."""
    return {
        "name": step.name,
        "use": step.spec.use,
        "key": step.key,
        "run": not step.up_to_date,
        "reason": step.reason,
        "write_bytes": step.write_bytes,
    }


def _artifact_json(artifact: Artifact) -> dict[str, Any]:
    return {"kind": artifact.kind, "path": str(artifact.path), "size": artifact.size, "sha256": artifact.sha256}
