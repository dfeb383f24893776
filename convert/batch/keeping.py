"""What goes once a model is done, so that the next one has the disk: `keep: outputs` and `keep: report`.

    all      nothing goes
    outputs  a source that this batch downloaded, as soon as no other of its models needs it
    report   that, and the outputs of what was validated: reports and logs stay

A folder that was there before, and what a failed model has made so far, never goes.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from convert.batch.options import Keep
from convert.batch.results import ModelResult
from convert.batch.task import Task
from convert.bundle import MANIFEST_NAME
from convert.files import STATE_FOLDER
from convert.registry import VALIDATE
from convert.source import hub

LET_GO = "let-go"  # below STATE_FOLDER: holds the recipe's hash that the outputs were of


@dataclass(frozen=True)
class Keeper:
    """Frees what a batch was told not to keep."""

    out: Path
    keep: Keep = "all"
    sources: bool = True  # whether downloads are this machine's to let go of

    def let_go(self, task: Task, others: Sequence[Task]) -> Iterator[str]:
        """Free what a job that has just ended leaves, and say what that was; `others` are all of its model."""
        result = task.result
        if self.keep == "all" or result is None or result.status == "failed":
            return
        if self.keep == "report" and result.status in ("passed", "missed") and (freed := self._outputs(result)):
            yield f"{task.job.name}: let go of {freed / 1e6:.1f} MB of outputs, as `keep: report` says"
        if (
            self.sources
            and any(t.we_fetched for t in others)
            and all(t.result is not None and t.result.status != "failed" for t in others)
        ):
            with contextlib.suppress(OSError):
                freed = hub.forget(task.job.hub, task.job.revision or hub.DEFAULT_REVISION)
                yield f"{task.job.name}: let go of {freed / 1e6:.1f} MB of {task.job.model}, which the hub has"

    def _outputs(self, result: ModelResult) -> int:
        """Free the folder of every stage but the report's, and what a next report would be made of."""
        folder = self.out / result.name
        (folder / STATE_FOLDER / LET_GO).write_text(result.recipe_sha256, encoding="ascii")
        stages = [m.parent for m in folder.glob(f"*/{MANIFEST_NAME}") if m.parent.name != VALIDATE]
        kept = [folder / STATE_FOLDER / name for name in ("reference", "measured")]
        freed = 0
        for path in [*stages, *filter(Path.is_dir, kept)]:
            freed += sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            shutil.rmtree(path, ignore_errors=True)
        return freed

    def was_let_go(self, name: str, recipe_sha256: str) -> bool:
        """Whether the outputs of this very recipe were made, measured, and let go of."""
        with contextlib.suppress(OSError):
            said = (self.out / name / STATE_FOLDER / LET_GO).read_text(encoding="ascii")
            return self.keep == "report" and said == recipe_sha256 and (self.out / name / "report.json").is_file()
        return False
