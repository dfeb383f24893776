"""What a step takes of a machine, and what a machine has. A leaf."""

from __future__ import annotations

import os
from dataclasses import dataclass

MB, GB = 10**6, 10**9
USABLE_SHARE = 0.8  # of the free memory: the rest is for whoever else uses the machine


@dataclass(frozen=True)
class Needs:
    """What a step takes at its peak, as its plan knows it."""

    memory_bytes: int = 300 * MB  # beyond mapped files, which the system takes back
    cores: int = 1  # that it keeps busy; 0: all there are
    scratch_bytes: int = 0  # on the output's disk, beside what is kept
    accelerator: bool = False  # cannot do without one


@dataclass(frozen=True)
class Room:
    """What a plan may count with. None: what is free at the moment; who runs several models at a time shares it out."""

    memory_bytes: int | None = None  # for one step
    disk_bytes: int | None = None  # for all that a run writes


@dataclass(frozen=True)
class Machine:
    """What may be used of a machine."""

    cores: int
    memory_bytes: int | None  # None where the system does not say

    def fits(self, needs: Needs, running: list[Needs]) -> bool:
        """Whether a step may start beside those that run; one alone always may."""
        if not running:
            return True
        cores = sum(self.busy(other) for other in running) + self.busy(needs)
        memory = sum(other.memory_bytes for other in running) + needs.memory_bytes
        return cores <= self.cores and (self.memory_bytes is None or memory <= self.memory_bytes)

    def busy(self, needs: Needs) -> int:
        """How many of the cores a step keeps busy."""
        return min(needs.cores or self.cores, self.cores)


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def this_machine() -> Machine:
    """What is free here now, less what others may want."""
    from validate.memory import free_bytes

    free = free_bytes()
    return Machine(cores(), None if free is None else int(free * USABLE_SHARE))
