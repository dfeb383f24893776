"""One step, as any process of any machine may run it: words and places go in, a bundle comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convert import registry
from convert.bundle import Bundle
from convert.needs import Needs
from convert.progress import Progress

if TYPE_CHECKING:  # pydantic
    from convert.options import Options


@dataclass(frozen=True)
class Task:
    """A step with its inputs, which lie where their paths say. Holds no weights and can be pickled."""

    name: str
    use: str
    options: Options
    inputs: Mapping[str, Bundle]
    key: str
    recipe_sha256: str
    needs: Needs


def execute(task: Task, folder: Path, progress: Progress) -> Bundle:
    """The bundle of the step's files, made in the empty `folder`. Nothing else is written, nothing published."""
    return registry.load(task.use).run(task.options, task.inputs, folder, progress)
