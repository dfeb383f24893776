"""A job on a machine that has the store alone: below a folder of its own what the recipe reads, then what `convert run`
does, with steps that the store keeps.

    FOLDER/blobs, used     what was brought and made, up to a size (convert.store.cache)
    FOLDER/work/<pid>      the job of a process, while it runs
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from convert.batch.results import outputs_of
from convert.batch.travel import hashes_known, receive
from convert.errors import PlanError, raise_all
from convert.events import StepProgress
from convert.executors.stored import StoredExecutor
from convert.files import STATE_FOLDER, cache_folder
from convert.hashes import HashMemory
from convert.json_types import JsonDict, JsonObject
from convert.needs import Room
from convert.plan import plan
from convert.recipe import Recipe
from convert.run import run
from convert.store.cache import NodeCache
from convert.store.objects import Objects
from convert.store.steps import StepStore, blob_name

if TYPE_CHECKING:
    from convert.events import OnEvent

NODE_FOLDER = "CONVERT_NODE_FOLDER"
CARRIED_AT_A_TIME = 2
LOGS, WORK = "logs", "work"
DISK_MARGIN_BYTES = 64 << 20
Released = Callable[[Recipe, Path], list[str]]
"""Publishes a recipe that passed, as its `release:` says: where."""


def node_folder() -> Path:
    """Where a node keeps what it brought and what it makes: $CONVERT_NODE_FOLDER, else below the cache."""
    return Path(os.environ.get(NODE_FOLDER) or cache_folder() / "node")


def convert_by_store(task: JsonObject, on_event: OnEvent, released: Released) -> JsonDict:
    """What `convert run` does, in a folder of this process's own; what it made is in the store when it returns."""
    told = task["told"]
    folder = node_folder()
    cache = NodeCache(folder, told["cache_bytes"])
    place = folder / WORK / str(os.getpid())
    _clear(folder / WORK)
    try:
        with StepProgress("plan", on_event) as progress:
            store = StepStore(Objects(told["store"], progress), cache)
            recipe = receive(told, store, place)
            out = place / "out"
            memory = HashMemory(out / recipe.name / STATE_FOLDER / "hashes.json")
            hashes_known(told, place, memory)
            planned = plan(recipe, out, progress=progress, room=Room(task["memory"], task["disk"]))
        raise_all(planned.problems, PlanError)
        _make_room(cache, planned.write_bytes + planned.scratch_bytes)
        executor = StoredExecutor(store)
        try:
            result = run(planned, on_event, executor=executor)
        finally:
            executor.stop()
        found: JsonDict = {"ran": executor.executed, "passed": result.passed, "validated": result.report is not None}
        found["outputs"] = outputs_of(result.folder, result.report, result.bundles)
        found |= {"keys": executor.keys, "logs": _logs(result.folder / LOGS, store)}
        found["released"] = released(recipe, out) if found["validated"] and result.passed else []
        if told["job"]:
            store.publish_job(told["job"], found)
        return found
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _make_room(cache: NodeCache, need: int) -> None:
    """Have room for what will be written. Raises OSError where the disk has none, whatever is let go of."""
    cache.make_room(need)
    if shutil.disk_usage(cache.folder).free < need + DISK_MARGIN_BYTES:
        cache.empty()
    if shutil.disk_usage(cache.folder).free < need + DISK_MARGIN_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(cache.folder))


def _clear(work: Path) -> None:
    """Take away what processes left here that were killed, and this one's number before it."""
    for place in work.glob("[0-9]*"):
        if place.name == str(os.getpid()) or not Path(f"/proc/{place.name}").exists():
            shutil.rmtree(place, ignore_errors=True)


def _logs(folder: Path, store: StepStore) -> JsonDict:
    """The logs of the steps, sent to the store: name -> size, hash."""
    from convert.store.cache import file_sha256

    found: JsonDict = {}
    for path in sorted(folder.glob("*.log")):
        found[path.name] = [path.stat().st_size, file_sha256(path)]
        store.objects.put(path, blob_name(found[path.name][1]))
    return found
