"""The process of a step: `convert.child.run(["convert.executors.worker", "TASK.pickle", "BUNDLE.pickle"])`.

Both files are ours, made a moment ago by the process that asks: nothing of a model's is ever unpickled.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from convert import messages
from convert.errors import to_json
from convert.execute import execute


def main(request: str, answer: str) -> None:
    """Run the step; its bundle goes into `answer`, what it raises into the process's result."""
    task, folder = pickle.loads(Path(request).read_bytes())
    progress = messages.parent()
    progress.key, progress.recipe_sha256 = task.key, task.recipe_sha256
    try:
        bundle = execute(task, folder, progress)
    except Exception as error:  # all of them cross, with their traceback for the log
        progress.result({"error": to_json(error)})
        return
    Path(answer).write_bytes(pickle.dumps(bundle))
    progress.result({})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
