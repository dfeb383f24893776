"""The process that converts one model after the other: what torch, transformers and compilers cost at their start is
paid once. `convert.batch.pool` starts it; it ends when nobody holds the other end of its socket.

Both sides say lines of JSON. It is told a task, and asks before it takes anything of the machine:

    <- {"task": "run", "recipe": "…", "out": "…", "memory": 16000000000, "disk": 500000000000, "beside": ["…"]}
    -> {"kind": "event", "event": "step_started", "step": "q4", "data": {…}}
    -> {"kind": "disk", "bytes": 123}      <- {"go": true}      before the first byte is written
    -> {"kind": "step", "step": "q4", "needs": {…}}   <- {"go": true}      before a step starts
    -> {"kind": "release"}                 <- {"go": true}      before it is published
    -> {"kind": "done", "result": {…}}     or {"kind": "failed", "failure": {…}}
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from dataclasses import asdict
from pathlib import Path

from convert.batch import sharing
from convert.batch.failures import failure_of
from convert.batch.results import outputs_of
from convert.errors import ConvertError, PlanError, raise_all
from convert.events import Event, StepProgress
from convert.formats.base import SOURCE
from convert.json_types import JsonDict, JsonObject
from convert.needs import Room
from convert.plan import plan
from convert.recipe import Recipe, load_recipe, runs_code
from convert.run import run
from convert.steps import Plan

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Link:
    """The socket's end in this process."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._lock = threading.Lock()  # a step's beat is another thread's
        self.heard: queue.SimpleQueue[JsonDict] = queue.SimpleQueue()
        self.step = ""  # that runs, or asks to
        self.ran_code = False  # of a model, as its recipe allowed: the next model is not to meet what that left
        self._needs: dict[str, object] = {}
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError), self._end.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                message = json.loads(line)
                if message.get("stop"):
                    os.kill(os.getpid(), signal.SIGINT)
                else:
                    self.heard.put(message)
        os._exit(1)  # nobody is there any more, whatever native code is running

    def say(self, **message: object) -> None:
        """Send one message."""
        with self._lock:
            self._end.sendall(json.dumps(message, default=str).encode() + b"\n")

    def ask(self, **message: object) -> None:
        """Send one message and wait until it is allowed."""
        self.say(**message)
        while not self.heard.get().get("go"):
            pass

    def on_event(self, event: Event) -> None:
        """Hand an event on; a step that is about to start waits until there is room for it."""
        if event.kind == "plan":
            self._needs = {step["name"]: step["needs"] for step in event.data["steps"]}
        if event.kind == "step_started":
            self.step = event.step
            self.ask(kind="step", step=event.step, needs=self._needs[event.step])
        if event.kind == "step_finished":
            self.say(kind="step over")
        self.say(kind="event", event=event.kind, step=event.step, data=event.data)


def main(descriptor: int) -> None:
    """Do tasks until there are no more."""
    faulthandler.enable()
    link = Link(socket.socket(fileno=descriptor))
    tasks = {"run": _run, "plan": _plan, "fetch": _fetch}
    while True:
        task = link.heard.get()
        link.step, link.ran_code = "", False
        try:
            result = tasks[task["task"]](task, link)
            link.say(kind="done", result=result, memory=resident_bytes(), recycle=link.ran_code)
        except KeyboardInterrupt:
            os._exit(0)  # what it had begun is cleared
        except Exception as error:
            traceback.print_exc()
            failure = failure_of(error, link.step)
            stale = link.ran_code or failure.kind == "memory" or not isinstance(error, ConvertError)
            link.say(kind="failed", failure=asdict(failure), memory=resident_bytes(), recycle=stale)


def _planned(task: JsonObject, link: Link) -> Plan:
    recipe = load_recipe(task["recipe"])
    room = Room(task["memory"], task["disk"])  # of the whole disk: whether there is room now, the one who asks sees
    with StepProgress("plan", link.on_event) as progress:
        return plan(recipe, task["out"], progress=progress, room=room)


def _run(task: JsonObject, link: Link) -> JsonDict:
    """What `convert run` does."""
    if "told" in task:
        from convert.batch.stored import convert_by_store

        link.ran_code = task["told"]["runs_code"]
        return convert_by_store(task, link.on_event, lambda recipe, out: _released(recipe, out, link))
    recipe = load_recipe(task["recipe"])
    link.ran_code = runs_code(recipe)
    folder = Path(task["out"]) / recipe.name
    beside = [Path(other) for other in task["beside"]]
    with sharing.lent(folder, beside):
        planned = _planned(task, link)
        raise_all(planned.problems, PlanError)
    if not all(step.up_to_date for step in planned.steps):
        link.ask(kind="disk", bytes=planned.write_bytes + planned.scratch_bytes)
        with StepProgress("plan", link.on_event) as progress:
            sharing.take_over(planned, beside, progress)
    result = run(planned, link.on_event, jobs=1)
    found: JsonDict = {"ran": list(result.ran), "passed": result.passed, "validated": result.report is not None}
    found["outputs"] = outputs_of(result.folder, result.report, result.bundles)
    found["released"] = _released(recipe, Path(task["out"]), link) if found["validated"] and result.passed else []
    return found


def _released(recipe: Recipe, out: Path, link: Link) -> list[str]:
    """Where a model that passed was published, as its recipe's `release:` says; one model of a batch at a time."""
    if recipe.release is None or recipe.release.to is None:
        return []
    from convert.release.release import Request, release

    link.step = "release"
    link.ask(kind="release")
    with StepProgress("release", link.on_event) as progress:
        made = release(recipe, out, Request(recipe.release), progress)
    link.say(kind="released")
    return [one.where for one in made.repositories]


def _plan(task: JsonObject, link: Link) -> JsonDict:
    planned = _planned(task, link)
    steps = [step.to_json() for step in planned.steps]
    return {
        "problems": list(map(str, planned.problems)),
        "steps": steps,
        "download": planned.needs_download,
        "write_bytes": planned.write_bytes,
        "peak_bytes": planned.write_bytes + planned.scratch_bytes,
        "memory_bytes": max((s["needs"]["memory_bytes"] for s in steps if s["run"]), default=0),
    }


def _fetch(task: JsonObject, link: Link) -> JsonDict:
    """Bring a model of the hub here."""
    from convert.source import hub

    options = load_recipe(task["recipe"]).stages[SOURCE]
    asked = dict(options.options)
    need = hub.download_bytes(asked["hub"], asked["revision"] or hub.DEFAULT_REVISION)
    link.ask(kind="disk", bytes=need)
    from convert import registry

    with StepProgress(SOURCE, link.on_event) as progress:
        registry.load(SOURCE).fetch(options.options, progress)
    return {"bytes": need}


def resident_bytes() -> int:
    """What this process holds of memory; 0 where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES
    return 0


if __name__ == "__main__":
    main(int(sys.argv[1]))
