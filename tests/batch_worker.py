"""The process of a batch with fake stages in it: `python -m tests.batch_worker DESCRIPTOR`."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from convert.bundle import Bundle, Role
from convert.needs import Needs
from convert.progress import Progress
from convert.stage import Inputs
from tests import fake_stages
from tests.fake_stages import UpperStage

ENVIRONMENT = "CONVERT_TEST_PLACE"


class OddStage(UpperStage):
    """The text in capitals, unless it says what else is to happen.

    crash      the process ends as native code ends it
    killed     it is killed from outside; `killed once` only the first time
    busy N     a server is out of reach N times
    memory     there is none left, once
    full       the disk is, once
    big        it takes more memory than there is
    slow       ten minutes
    """

    NAME: ClassVar[str] = "upper"

    def needs(self, options: Any, inputs: Inputs, made: Bundle) -> Needs:
        text = next(iter(inputs.values())).of(Role.WEIGHTS)[0].path.read_text()
        return Needs(10**15 if text.startswith("big") else 1000)

    def run(self, options: Any, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
        source = next(iter(inputs.values())).of(Role.WEIGHTS)[0].path
        word, *rest = source.read_text().split()
        seen = Path(os.environ[ENVIRONMENT]) / f"{source.stem}.tries"
        tries = int(seen.read_text()) if seen.exists() else 0
        seen.write_text(str(tries + 1))
        (out / "half.txt").write_text("half")
        if word == "crash":
            os.abort()
        if word == "killed" and not (rest == ["once"] and tries):
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "busy" and tries < int(rest[0]):
            raise ConnectionResetError(104, "Connection reset by peer")
        if word == "memory" and not tries:
            raise MemoryError
        if word == "full" and not tries:
            raise OSError(28, "No space left on device")
        if word == "slow":
            progress.start("waiting", 600)
            time.sleep(600)
        (out / "half.txt").unlink()
        return super().run(options, inputs, out, progress)


class Patch:
    """As pytest's monkeypatch, for a process that ends with what it changed."""

    @staticmethod
    def setattr(target: Any, name: str, value: Any) -> None:
        setattr(target, name, value)


def publish(recipe: Any, out: Path, request: Any, progress: Progress) -> Any:
    """Stands for `convert release`; fails where two do it at a time."""
    place = Path(recipe.release.to)
    place.mkdir(exist_ok=True)
    with open(place / "held", "x"):
        time.sleep(0.2)
    (place / recipe.name).write_text("published")
    (place / "held").unlink()
    return SimpleNamespace(repositories=[SimpleNamespace(where=f"{place.name}/{recipe.name}")])


if __name__ == "__main__":
    from convert.batch import worker
    from convert.release import release

    Patch.setattr(release, "release", publish)
    with fake_stages.installed(Patch) as fakes:
        fakes["upper"] = OddStage()
        worker.main(int(sys.argv[1]))
