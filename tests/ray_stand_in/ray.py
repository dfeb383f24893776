"""As much of Ray as is asked of it: functions run in threads; where a file `lost` is, one takes its node along.

Where a file `head` is, the process ends at once, as Ray ends it when a cluster's head has died.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PLACE = Path(os.environ.get("CONVERT_TEST_PLACE", "."))


class Lost(Exception):
    """A node went away."""


exceptions = SimpleNamespace(RayError=Lost)
util = SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1")


def init(**words: Any) -> None:
    if words.get("address") == "auto":
        raise ConnectionError("Could not find any running Ray instance.")


def shutdown() -> None: ...


def cluster_resources() -> dict[str, float]:
    return {"CPU": 2.0}


def remote(**options: Any) -> Any:
    assert options == {"num_cpus": 1, "max_retries": 0}

    def of(function: Any) -> Any:
        def start(*arguments: Any) -> Future[Any]:
            future: Future[Any] = Future()

            def run() -> None:
                try:
                    found = function(*arguments)
                except BaseException as error:
                    future.set_exception(error)
                    return
                if found[0] and (PLACE / "lost").exists():
                    (PLACE / "lost").unlink()
                    future.set_exception(Lost("The node with node id: 12 has been marked dead"))
                else:
                    future.set_result(found)

            threading.Thread(target=run, daemon=True).start()
            return future

        return SimpleNamespace(remote=start)

    return of


def wait(futures: list[Future[Any]], timeout: float) -> tuple[list[Future[Any]], list[Future[Any]]]:
    assert timeout == 0
    if (PLACE / "head").exists():
        (PLACE / "head").unlink()
        os._exit(1)
    return [f for f in futures if f.done()], [f for f in futures if not f.done()]


def get(future: Future[Any], timeout: float) -> Any:
    return future.result(timeout)
