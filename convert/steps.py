"""A plan and its steps, as data: what a run would do, why, and what each step takes."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from convert import registry, timings
from convert.bundle import Bundle
from convert.errors import Problem
from convert.hashes import HashMemory
from convert.json_types import JsonDict, JsonObject
from convert.needs import Needs, Room
from convert.recipe import Recipe, StageSpec
from convert.registry import AnyStage
from convert.stage import Inputs


@dataclass(frozen=True)
class Step:
    """One stage of one recipe. `bundle` is what is on disk when it is up to date, else what is forecast."""

    name: str
    spec: StageSpec
    out: Path
    key: str  # empty while an input is not known yet
    key_inputs: JsonObject
    up_to_date: bool
    reason: str
    bundle: Bundle | None
    needs: Needs = field(default_factory=Needs)
    work: int = 0  # as its stage measures it

    @property
    def stage(self) -> AnyStage:
        return registry.load(self.spec.use)

    @property
    def left_out(self) -> str:
        """Why the step is neither run nor used, in a plan that builds nothing; else empty."""
        return self.bundle.not_built if self.bundle is not None else ""

    @property
    def write_bytes(self) -> int:
        """Bytes this step will write; 0 when it is up to date."""
        if self.up_to_date or self.bundle is None or self.left_out:
            return 0
        return sum(a.size for _, a in self.bundle.artifacts() if a.path.is_relative_to(self.out))

    @property
    def seconds(self) -> float | None:
        """How long it will take, by what earlier ones took on this machine; None where there were none."""
        return None if self.up_to_date else timings.seconds(self.spec.use, self.work)

    def to_json(self) -> JsonDict:
        """What a plan says of one step, for scripts."""
        return {
            "name": self.name,
            "use": self.spec.use,
            "key": self.key,
            "run": not self.up_to_date,
            "reason": self.reason,
            "write_bytes": self.write_bytes,
            "needs": asdict(self.needs),
            "seconds": self.seconds,
        }

    def explain(self, inputs: Inputs) -> list[str]:
        """The stage's own words about what it will do."""
        return list(self.stage.explain(self.spec.options, inputs))


@dataclass(frozen=True)
class Plan:
    """What a run would do. With `problems` it cannot start; `notes` are worth reading but stop nothing."""

    recipe: Recipe
    folder: Path  # out/<recipe name>
    steps: tuple[Step, ...]
    problems: tuple[Problem, ...]
    hashes: HashMemory = field(repr=False, compare=False)
    notes: tuple[str, ...] = ()
    needs_download: bool = False
    force: frozenset[str] = frozenset()
    builds: bool = True
    overlaps: tuple[str, ...] = ()  # notes that a report has to repeat: what was calibrated on is tested on
    room: Room = field(default_factory=Room)

    @property
    def write_bytes(self) -> int:
        return sum(step.write_bytes for step in self.steps)

    @property
    def scratch_bytes(self) -> int:
        """The most that one of its steps has on the disk beside what is kept."""
        return max((step.needs.scratch_bytes for step in self.steps if not step.up_to_date), default=0)

    @property
    def free_bytes(self) -> int:
        return shutil.disk_usage(existing_folder(self.folder)).free

    def inputs(self, step: Step) -> dict[str, Bundle]:
        """The bundles a step takes, by stage name; only those known so far."""
        by_name = {s.name: s.bundle for s in self.steps}
        return {name: bundle for name in step.spec.inputs if (bundle := by_name[name]) is not None}


def existing_folder(folder: Path) -> Path:
    """The nearest folder that is there already."""
    return next(p for p in (folder, *folder.parents) if os.access(p, os.F_OK))  # False where none may look
