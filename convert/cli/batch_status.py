"""`convert status`: what a batch wrote down about itself, read from another terminal."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

from convert.cli.console import duration
from convert.errors import PlanError, Problem
from convert.json_types import JsonDict, JsonObject

SHOWN = 20  # failures


def status_of(out: Path) -> JsonDict:
    """How far the batch in a folder is. Raises PlanError where there was none."""
    from convert.batch.journal import Journal

    journal = Journal(out)
    now = journal.now()
    if now is None:
        remedy = "name the folder that `convert batch` was given as --out"
        raise PlanError(Problem(str(out), "no batch has written here", "an output folder of a batch", remedy))
    failed = [r for r in journal.results().values() if r.status == "failed"]
    said = [{"name": r.name, "reason": r.reason, "attempts": r.attempts} for r in failed]
    return {**now, "alive": not now["ended"] and _lives(now), "failed": said}


def _lives(now: JsonObject) -> bool:
    """Whether the process is there; one of another machine counts as alive."""
    if now["host"] != socket.gethostname():
        return True
    try:
        os.kill(int(now["pid"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def status_lines(now: JsonObject, out: Path) -> Iterator[str]:
    """As a person reads it."""
    from convert.table import plain

    done = sum(now["counts"].values())
    state = "runs" if now["alive"] else "has ended" if now["ended"] else "was killed; start it again, it goes on"
    yield f"{out}: {done} of {now['models']} models done, the batch {state} (since {now['since']}, {now['updated']})"
    counts = ", ".join(f"{count} {status}" for status, count in now["counts"].items())
    if counts:
        yield f"  {counts}"
    if now["alive"] and now["left_seconds"]:
        yield f"  about {duration(now['left_seconds'])} left"
    if now["alive"] and now["paused"]:
        yield f"  paused: {now['paused']}"
    for task in now["running"] if now["alive"] else ():
        yield f"  {plain(task['name'])}: {how_far(task)}"
    for name in now["retrying"] if now["alive"] else ():
        yield f"  {plain(name)}: will be tried again"
    for failure in now["failed"][:SHOWN]:
        yield f"failed: {plain(failure['name'])}: {plain(failure['reason'])}"
    if len(now["failed"]) > SHOWN:
        yield f"and {len(now['failed']) - SHOWN} more"


def how_far(task: JsonObject) -> str:
    """What a model that runs is at."""
    if task["waits_for"]:
        return f"{task['step'] or 'planned'}, waits for {task['waits_for']}"
    what = task.get("what", "")
    if task.get("total") and "done" in task:
        what = f"{what} {task['done'] / task['total']:.0%}"
    return ", ".join(filter(None, (task["step"] or "starts", what, duration(task["took"]))))
