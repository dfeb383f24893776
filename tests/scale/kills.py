"""A Ray cluster of processes on this machine, an S3 store with faults, and kills at random.

    python -m tests.scale kills [--models 12] [--kills 12] [--seed 1] [--folder DIR] [--without-ray]

Three nodes and a head, each with a folder of its own for what it keeps: nothing is shared but the store. While the
batch runs one of these is killed by SIGKILL every few seconds: a process that converts, a node with all on it, the
driver, the head with the whole cluster; what was killed is started again. At the end: the bytes are those of a batch
on this machine alone, every object in the store is what its name says, and no name was given twice.

`--without-ray`: two batches of the same models at once, each with a folder of its own; processes and drivers are
killed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from tests.fixtures_store import Faulty, bucket, environment, s3_server
from tests.scale.batch import timed
from tests.scale.models import hashes, prepare

HEAD, NODES = "head", ("one", "two", "three")
MARK = "CONVERT_NODE_NAME"
FAULTS = 0.03  # of requests to the store
WHAT = ("worker", "worker", "node", "driver", HEAD)
FAILED = 1  # exit code
DRIVERS = ("first", "second")  # without Ray: two batches of the same models, at once


class Cluster:
    """A head that converts nothing, and nodes of one core each."""

    def __init__(self, folder: Path, given: dict[str, str]) -> None:
        self._folder, self._given = folder, given
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"

    def start(self, name: str) -> None:
        where = ["--head", f"--port={self.port}", "--num-cpus=0", "--include-dashboard=false"]
        where = where if name == HEAD else [f"--address={self.address}", "--num-cpus=1"]
        place = {"CONVERT_NODE_FOLDER": str(self._folder / "nodes" / name), MARK: name}
        given = {**self._given, **place, "CONVERT_CACHE_HOME": str(self._folder / "nodes" / name / "home")}
        command = [str(Path(sys.executable).parent / "ray"), "start", *where, "--disable-usage-stats"]
        command += ["--object-store-memory=100000000", f"--temp-dir={self._folder / 'ray'}"] if name == HEAD else []
        command += [] if name == HEAD else ["--object-store-memory=100000000"]
        with open(self._folder / "ray.log", "ab") as log:
            subprocess.run(command, env=given, stdout=log, stderr=log, check=False, timeout=300)

    def kill(self, name: str) -> int:
        return sum(kill(process) for process in marked(name))

    def up(self, name: str) -> bool:
        return any("raylet" in process_name(process) for process in marked(name))


def marked(name: str) -> list[psutil.Process]:
    """All that was started on a node of ours."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == name and process.environ().get("CONVERT_SCALE") == str(os.getpid()):
                found.append(process)
    return found


def process_name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return process.name()
    return ""


def kill(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        process.send_signal(signal.SIGKILL)
        return True
    return False


def workers() -> list[psutil.Process]:
    """The processes that convert."""
    found = []
    for name in (*NODES, *DRIVERS):
        for process in marked(name):
            with contextlib.suppress(psutil.Error):
                if "convert.batch.worker" in process.cmdline():
                    found.append(process)
    return found


class Pair:
    """Two batches of the same models at once, on this machine: they share the store and nothing else."""

    def __init__(self, words: argparse.Namespace, folder: Path, store: str, given: dict[str, str]) -> None:
        self.folder, self.random, self.left = folder, random.Random(words.seed), words.kills
        models, recipe = prepare(folder, words.models or 12)
        self.killed, self.again = Counter[str](), 0
        self._command = [sys.executable, "-m", "convert", "batch", *map(str, models), "--recipe", str(recipe)]
        self._command += ["--store", store, "--retries", "20", "--json", "-j", "1"]
        self._given = given

    def run(self) -> int:
        """Until both have ended by themselves; the larger exit code."""
        running = {name: self._drive(name) for name in DRIVERS}
        codes: dict[str, int] = {}
        next_kill = time.monotonic() + 4
        while running:
            for name, driver in list(running.items()):
                if (code := driver.poll()) is None:
                    continue
                if code < 0 or code == FAILED:  # a model that was killed twice is given up
                    self.again += code == FAILED
                    running[name] = self._drive(name)
                else:
                    codes[name] = code
                    del running[name]
            if self.left and running and time.monotonic() > next_kill:
                self._kill(list(running.values()))
                next_kill = time.monotonic() + self.random.uniform(0.5, 3)
            time.sleep(0.1)
        return max(codes.values())

    def _drive(self, name: str) -> subprocess.Popen[bytes]:
        place = {"CONVERT_NODE_FOLDER": str(self.folder / "nodes" / name), MARK: name}
        with open(self.folder / f"{name}.log", "ab") as log:
            command = [*self._command, "--out", f"ray-out-{name}"]
            return subprocess.Popen(command, cwd=self.folder, env={**self._given, **place}, stdout=log, stderr=log)

    def _kill(self, drivers: list[subprocess.Popen[bytes]]) -> None:
        what = self.random.choice(("worker", "worker", "driver"))
        found = workers()
        if what == "worker" and not (found and kill(self.random.choice(found))):
            return
        if what == "driver":
            self.random.choice(drivers).send_signal(signal.SIGKILL)
        self.killed[what] += 1
        self.left -= 1
        print(f"killed: {what}", flush=True)

    def end(self) -> None:
        for name in DRIVERS:
            for process in marked(name):
                kill(process)


class Drill:
    """One batch, and what is killed meanwhile."""

    def __init__(self, words: argparse.Namespace, folder: Path, store: str, given: dict[str, str]) -> None:
        self.folder, self.random, self.left = folder, random.Random(words.seed), words.kills
        models, recipe = prepare(folder, words.models or 12)
        self.cluster = Cluster(folder, given)
        self.killed, self.again = Counter[str](), 0
        named = [str(model) for model in models]
        self._command = [sys.executable, "-m", "convert", "batch", *named, "--recipe", str(recipe), "--out", "ray-out"]
        self._command += ["--engine", "auto", "--store", store, "--retries", "20", "--json"]
        self._given = {**given, "RAY_ADDRESS": self.cluster.address}

    def run(self) -> int:
        """Until the batch has ended by itself; its exit code."""
        for name in (HEAD, *NODES):
            self.cluster.start(name)
        driver, next_kill = self._drive(), time.monotonic() + 5
        while (code := driver.poll()) is None or code < 0 or code == FAILED:
            if code is not None:
                self.again += code == FAILED
                driver = self._drive()
            if self.left and time.monotonic() > next_kill and (what := self._kill(driver)):
                self.killed[what] += 1
                self.left -= 1
                print(f"killed: {what}", flush=True)
                next_kill = time.monotonic() + self.random.uniform(2, 8)
            time.sleep(0.2)
        return code

    def _drive(self) -> subprocess.Popen[bytes]:
        with open(self.folder / "driver.log", "ab") as log:
            return subprocess.Popen(self._command, cwd=self.folder, env=self._given, stdout=log, stderr=log)

    def _kill(self, driver: subprocess.Popen[bytes]) -> str:
        what = self.random.choice(WHAT)
        if what == "worker":
            running = workers()
            return what if running and kill(self.random.choice(running)) else ""
        if what == "driver":
            driver.send_signal(signal.SIGKILL)
            return what
        if what == "node":
            name = self.random.choice(NODES)
            if self.cluster.kill(name):
                self.cluster.start(name)
                return what
            return ""
        for name in (HEAD, *NODES):  # without its head a cluster is none
            self.cluster.kill(name)
        for name in (HEAD, *NODES):
            self.cluster.start(name)
        return what

    def end(self) -> None:
        for name in (HEAD, *NODES):
            self.cluster.kill(name)


def check_store(url: str, store: str) -> tuple[int, int]:
    """Every object is what its name says, and every step names what is there: how many blobs, how many steps."""
    import json

    import fsspec

    words = {"endpoint_url": url, "key": "AKIATEST1234", "secret": "verysecret"}
    system = fsspec.filesystem("s3", **words, skip_instance_cache=True)
    home = store.removeprefix("s3://")
    blobs = {path.rpartition("/")[2]: system.cat_file(path) for path in system.find(f"{home}/blobs")}
    for name, data in blobs.items():
        assert hashlib.sha256(data).hexdigest() == name, f"{name} holds other bytes"
    steps = system.find(f"{home}/steps")
    for path in steps:
        for name, (size, sha) in json.loads(system.cat_file(path))["files"].items():
            assert len(blobs[sha]) == size, f"{path}: {name}"
    return len(blobs), len(steps)


def main(words: argparse.Namespace) -> None:
    folder = words.folder or Path(tempfile.mkdtemp(prefix="convert-kills-"))
    outs = [f"ray-out-{name}" for name in DRIVERS] if words.without_ray else ["ray-out"]
    for name in (*outs, "nodes", "ray"):
        shutil.rmtree(folder / name, ignore_errors=True)
    models, recipe = prepare(folder, words.models or 12)
    alone = folder / "alone"
    if not alone.is_dir():
        named = [str(model) for model in models]
        command = [sys.executable, "-m", "convert", "batch", *named, "--recipe", str(recipe), "--out", str(alone)]
        timed(command, folder, alone)
    faulty = Faulty(seed=words.seed)
    with s3_server(faulty) as url:
        store = bucket(url)
        faulty.rate = FAULTS
        given = {**os.environ, **environment(url), "CONVERT_SCALE": str(os.getpid()), "OMP_NUM_THREADS": "1"}
        given["RAY_AUTH_MODE"] = "disabled"  # of this machine alone, and for minutes
        kind = Pair if words.without_ray else Drill
        drill, began = kind(words, folder, store, given), time.monotonic()
        try:
            code = drill.run()
        finally:
            drill.end()
        took = time.monotonic() - began
        faulty.rate = 0.0
        blobs, steps = check_store(url, store)
    equal = all(hashes(folder / name) == hashes(alone) for name in outs)
    named = Counter(p for m, p, s in faulty.asked if m.startswith("PUT") and s == 200 and "/steps/" in p)
    named_twice = [path for path, times in named.items() if times > 1]
    begun = sum(1 for m, p, s in faulty.asked if m == "PUT+" and s == 200 and "/leases/" in p)
    refused = sum(1 for _, _, s in faulty.asked if s == 503)
    print(f"{len(models)} models, kills {dict(drill.killed)}: exit code {code} after {took:.0f} s")
    print(f"a batch that gave a model up, killed twice, was asked again {drill.again} times")
    print(f"bytes {'equal' if equal else 'DIFFER'}; {blobs} blobs and {steps} steps, all what their names say")
    print(f"{begun} leases taken for {steps - len(models)} steps: {begun - steps + len(models)} begun again")
    print(f"named twice: {len(named_twice)}; {refused} of {len(faulty.asked)} requests refused by the store")
    assert equal
    assert code == 0
    assert not named_twice
