"""A watch in a process that is killed at a model: `python -m tests.watch_process OUT ENDPOINT KILL_AFTER`.

It notes in OUT/begun.txt and OUT/ended.txt what was begun and what was written down.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from convert.batch.api import Batch
from convert.batch.results import ModelResult


def note(path: Path, text: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def main(out: Path, endpoint: str, kill_after: int) -> None:
    from huggingface_hub import constants

    from convert.batch.watch import Watcher
    from convert.batch.watch_list import watched

    constants.ENDPOINT = endpoint

    def run(self: Batch, on_event: Any) -> Any:
        for number, job in enumerate(self.jobs):
            note(out / "begun.txt", job.model)
            if number == kill_after:
                os.kill(os.getpid(), signal.SIGKILL)
            yield ModelResult(job.name, job.model, job.recipe, job.where, "made", ran=("gguf",))

    Batch.run = run  # type: ignore[method-assign]
    watcher = Watcher(out, watched(["Org"]).watches, [out / "r.yaml"], backlog=True)
    assert not watcher.look(lambda event: None)
    if (made := watcher.batch()) is not None:
        for result in watcher.run(made):
            note(out / "ended.txt", result.model)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
