"""What the driver itself costs: bytes for each model that waits, milliseconds for each message it takes."""

from __future__ import annotations

import json
import socket
import tempfile
import time
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

from convert.batch.driver import Driver, Settings
from convert.batch.failures import Failure
from convert.batch.jobs import Job
from convert.batch.keeping import Keeper
from convert.batch.options import Limits
from convert.batch.pool import HERE, Pool, Worker
from convert.batch.resources import Budget
from convert.needs import Machine

STEPS, PROGRESS = 20, 5  # of a model; events of a step beside its begin and end


class Echo(Worker):
    """A process that has done its model at once, with all the messages of one that took its time."""

    def __init__(self) -> None:
        ours, self._theirs = socket.socketpair()
        for end in (ours, self._theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        super().__init__(ours)

    def start(self, job: str, task: Mapping[str, object]) -> None:
        self.job = job
        lines: list[dict[str, object]] = []
        for number in range(STEPS):
            step = f"step{number}"
            lines.append({"kind": "step", "step": step, "needs": {"memory_bytes": 10**6, "cores": 1}})
            seen = {"kind": "event", "event": "progress", "step": step}
            lines += [{**seen, "data": {"done": i}} for i in range(PROGRESS)]
            lines.append({"kind": "step over"})
            lines.append({"kind": "event", "event": "step_finished", "step": step, "data": {"seconds": 1.0}})
        result = {"ran": ["x"], "passed": True, "validated": True, "outputs": [], "released": []}
        lines.append({"kind": "done", "result": result, "memory": 0})
        self._theirs.sendall(b"".join(json.dumps(line).encode() + b"\n" for line in lines))

    def say(self, **message: object) -> None: ...

    def end(self, until: float = 0.0) -> None:
        self.socket.close()
        self._theirs.close()

    def death(self, step: str) -> Failure:
        raise AssertionError("an echo never dies")


class Echoes(Pool):
    """As many of them as are asked for."""

    remote = True

    def __init__(self, at_a_time: int) -> None:
        self._at_a_time = at_a_time

    def new(self) -> Worker:
        return Echo()

    def budgets(self) -> Mapping[str, Budget]:
        return {HERE: Budget(Machine(10**6, None))}

    def models_at_a_time(self) -> int:
        return self._at_a_time

    def close(self) -> None: ...


def jobs(number: int, folder: Path) -> list[Job]:
    """Jobs without a recipe's text, which is written once and let go of."""
    path = folder / "r.yaml"
    path.write_text("name: x\n")
    names = [f"model-{i}" for i in range(number)]
    return [Job(name, f"org/{name}@main", "r", "list:1", path, "", f"org/{name}", "") for name in names]


def cost(models: int, at_a_time: int) -> tuple[float, float]:
    """Milliseconds for each message, and bytes for each model, of the driver itself."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        (out / ".convert/batch").mkdir(parents=True)
        tracemalloc.start()
        wanted = jobs(models, out)
        driver = Driver(Settings(out, Limits()), wanted, Echoes(at_a_time), Keeper(out), lambda event: None)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        began = time.process_time()
        done = sum(1 for _ in driver.results())
        took = time.process_time() - began
        assert done == models
    return took * 1000 / (models * (STEPS * (PROGRESS + 3) + 1)), held / models
