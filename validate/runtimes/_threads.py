"""How many threads help."""

from __future__ import annotations

import os
from pathlib import Path

SMALL_BYTES = 64 << 20  # of weights


def useful_threads(*weights: Path) -> int:
    """OMP_NUM_THREADS, else one for small weights, else the cores this process may use: a container's, not its host's.

    Threads of ggml and of torch meet after every operation and wait for each other by spinning. A model of a few
    million weights spends its time there: on two busy cores, two threads took 8 times as long as one.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    if sum(path.stat().st_size for path in weights if path.is_file()) < SMALL_BYTES:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def weights_of(graph: Path) -> list[Path]:
    """The files that may hold a graph's weights: itself, external data beside it, a checkpoint that it shares."""
    beside = graph.parent
    return [*beside.glob(f"{graph.name}*"), *beside.glob(f"{graph.stem}.bin"), *beside.glob("*.safetensors")]
