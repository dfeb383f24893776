"""Ray, in a process of its own: where a cluster's head dies, Ray ends the process that speaks with it.

    python -m convert.batch.ray_starter DESCRIPTOR ADDRESS

Both sides say lines of JSON over the socket DESCRIPTOR:

    -> {"ready": {"cores": 8, "host": "10.0.0.1"}}     or {"refused": "no cluster …"}, and it ends
    <- {"start": "<name>", "arguments": […]}           on whatever node Ray finds a core
    -> {"ended": "<name>", "code": 0, "words": "…"}    or {"lost": "<name>", "why": "…"}: Ray knows no more of it
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convert.batch.pool import last_words
from convert.batch.versions import versions
from convert.json_types import JsonDict
from convert.needs import this_machine

if TYPE_CHECKING:
    from ray import ObjectRef

LOOK_SECONDS = 0.2
RAY = "ray"


def main(descriptor: int, address: str) -> None:
    """Connect to a cluster, start what is asked for there, and say how it ended, until nobody asks any more."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # under `uv run` workers would build environments anew
    import ray

    link = _Link(socket.socket(fileno=descriptor))
    words = {"address": address} if address != RAY else {"include_dashboard": False}
    try:
        ray.init(**words, log_to_driver=False, configure_logging=False, ignore_reinit_error=True)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
        link.say(refused=(str(error).splitlines() or [type(error).__name__])[0])
        return
    host = ray.util.get_node_ip_address() if "://" not in address else _route_to(address)
    link.say(ready={"cores": int(ray.cluster_resources().get("CPU", 1)), "host": host})
    start = ray.remote(num_cpus=1, max_retries=0)(run_worker)
    running: dict[str, ObjectRef] = {}
    try:
        while not link.closed:
            for message in link.heard():
                running[message["start"]] = start.remote(*message["arguments"])
            for name in list(running):
                done, _ = ray.wait([running[name]], timeout=0)
                if done:
                    link.say(**_end(name, running.pop(name)))
    finally:
        ray.shutdown()


def _end(name: str, asked: ObjectRef) -> JsonDict:
    """How a process ended, as Ray knows it."""
    import ray

    try:
        code, words = ray.get(asked, timeout=1)
    except ray.exceptions.RayError as error:  # the node is gone, or Ray's own process there
        said = str(error).strip().splitlines()
        return {"lost": name, "why": said[0] if said else type(error).__name__}
    return {"ended": name, "code": int(code), "words": str(words)}


class _Link:
    def __init__(self, end: socket.socket) -> None:
        self._end, self._buffer, self.closed = end, bytearray(), False
        end.settimeout(LOOK_SECONDS)

    def say(self, **words: object) -> None:
        with contextlib.suppress(OSError):
            self._end.sendall(json.dumps(words).encode() + b"\n")

    def heard(self) -> Iterator[JsonDict]:
        try:
            chunk = self._end.recv(1 << 16)
            self.closed = not chunk
        except TimeoutError:
            chunk = b""
        except OSError:
            self.closed, chunk = True, b""
        self._buffer += chunk
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        for line in filter(None, lines):
            yield json.loads(line)


def _route_to(address: str) -> str:
    """This machine's address as the cluster sees it."""
    host, _, port = address.partition("://")[2].partition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, int(port or 10001)))  # nothing is sent
        return str(probe.getsockname()[0])


def run_worker(
    where: Sequence[object], command: Sequence[str], path: str, given: dict[str, str], folder: str
) -> tuple[int, str]:
    """On a node: a process of ours that is connected to the batch; how it ended, and its last words."""
    host, port, token, name = where
    machine = this_machine()
    with (
        tempfile.TemporaryDirectory(prefix="convert-ray-") as place,
        socket.create_connection((str(host), int(str(port)))) as end,
    ):
        hello: JsonDict = {"token": token, "name": name, "node": node_name(), "versions": versions()}
        hello |= {"cores": machine.cores, "memory": machine.memory_bytes}
        end.sendall(json.dumps(hello).encode() + b"\n")
        log = Path(place) / "printed.log"
        with open(log, "ab") as printed:
            process = subprocess.Popen(
                [sys.executable, *command[1:], str(end.fileno())],
                pass_fds=(end.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                env={**os.environ, **given, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
                cwd=folder if Path(folder).is_dir() else None,
                start_new_session=True,
            )
        end.close()  # it is the process's now, and ends with it
        try:
            return process.wait(), last_words(log)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)


def node_name() -> str:
    """What a node is called in messages: $CONVERT_NODE_NAME where several are on one machine."""
    return os.environ.get("CONVERT_NODE_NAME") or socket.gethostname()


if __name__ == "__main__":
    import importlib

    itself = importlib.import_module(
        "convert.batch.ray_starter"
    )  # Ray then finds what it is sent by name, not by value
    itself.main(int(sys.argv[1]), sys.argv[2])
