"""Whose turn it is: a step when there is memory and cores for it, a model when there is disk for what it writes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from convert.batch.pool import Worker
from convert.batch.resources import Budget, Disk
from convert.batch.task import Task
from convert.events import Event, OnEvent
from convert.steps import existing_folder

SAY_AGAIN_SECONDS = 600.0  # that there is no room


@dataclass
class Turns:
    """Gives out the machine."""

    out: Path
    budgets: Mapping[str, Budget]  # of each node
    disk_limit: int | None
    on_event: OnEvent
    paused: str = ""
    _said: float = 0.0

    def give(self, busy: Sequence[Task], workers: Sequence[Worker]) -> None:
        """Let everybody go on for whom there is room."""
        for node, budget in self.budgets.items():
            mine = [task for task in busy if task.worker is not None and task.worker.node == node]
            holding = {id(task.worker) for task in mine if task.held is not None}
            idle = sum(w.memory_bytes for w in workers if w.node == node and id(w) not in holding)
            self._give_steps(mine, budget, idle)
        self._give_disk(busy)
        waiting_to_publish = [task for task in busy if task.publishes == "waits"]
        if waiting_to_publish and not any(task.publishes == "does" for task in busy):
            waiting_to_publish[0].publishes = "does"
            _go(waiting_to_publish[0])

    def _give_steps(self, busy: Sequence[Task], budget: Budget, idle_bytes: int) -> None:
        """Let steps of one node start. `idle_bytes`: what its processes hold that run no step."""
        while True:
            waiting = sorted((t.asked for t in busy if t.asked is not None), key=lambda asked: asked.since)
            held = [t.held for t in busy if t.held is not None]
            given = budget.next(waiting, held, time.monotonic(), idle_bytes)
            if given is None:
                break
            task = next(t for t in busy if t.asked is given)
            task.asked, task.held = None, given
            _go(task)

    def _give_disk(self, busy: Sequence[Task]) -> None:
        waiting = [task for task in busy if task.disk is not None]
        for task in waiting:
            if task.disk is not None and self.disk(busy).has_room(task.disk):
                task.promised, task.disk = task.disk, None
                _go(task)
        if still := [task.disk for task in waiting if task.disk is not None]:
            if len(still) == len(busy):
                self._pause(min(still), self.disk(busy).free_bytes)
        elif self.paused and waiting:
            self.paused, self._said = "", 0.0
            self.on_event(Event("resumed", "", {"text": "goes on: there is room on the disk again"}))

    def disk(self, busy: Sequence[Task]) -> Disk:
        """What is free, and who will write how much of it."""
        free = shutil.disk_usage(existing_folder(self.out)).free
        return Disk(free, {task.job.name: task.promised for task in busy}, self.disk_limit)

    def _pause(self, need: int, free: int) -> None:
        """Nothing goes on for want of disk: say so, now and again, and wait."""
        self.paused = f"the disk has {free / 1e9:.2f} GB free, and the next model takes {need / 1e9:.2f} GB"
        if not self._said or time.monotonic() - self._said > SAY_AGAIN_SECONDS:
            self._said = time.monotonic()
            text = f"paused: {self.paused}; it goes on as soon as there is room in {self.out}"
            self.on_event(Event("paused", "", {"text": text, "free_bytes": free, "need_bytes": need}))


def _go(task: Task) -> None:
    if task.worker is not None:
        task.worker.say(go=True)
