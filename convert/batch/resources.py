"""Which steps may run beside each other: cores, memory, accelerators; and the disk that models may fill.

Steps ask in turn. A later one may go first while an earlier one waits for more than is free, but not for long: who
waits beyond PATIENCE_SECONDS is next, or a step that wants all cores would wait for as long as small ones come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from convert.needs import Machine, Needs

PATIENCE_SECONDS = 20.0
DISK_MARGIN_BYTES = 64 << 20


@dataclass(frozen=True)
class Asked:
    """A step that waits for its turn."""

    who: str  # the model
    needs: Needs
    since: float
    alone: bool = False  # nothing may run beside it
    resident_bytes: int = 0  # what its process holds already


@dataclass(frozen=True)
class Budget:
    """What all steps of a batch may take at a time."""

    machine: Machine
    accelerators: int = 1

    def fits(self, asked: Asked, running: Sequence[Asked], idle_bytes: int = 0) -> bool:
        """Whether a step may start beside those that run; one alone always may.

        `idle_bytes` is what processes hold that run no step, the one that asks among them.
        """
        if not running:
            return True
        if asked.alone or any(other.alone for other in running):
            return False
        used = sum(1 for other in running if other.needs.accelerator)
        if asked.needs.accelerator and used >= self.accelerators:
            return False
        memory = self.machine.memory_bytes
        others = max(0, idle_bytes - asked.resident_bytes)
        room = Machine(self.machine.cores, None if memory is None else memory - others)
        return room.fits(asked.needs, [other.needs for other in running])

    def next(self, waiting: Sequence[Asked], running: Sequence[Asked], now: float, idle_bytes: int = 0) -> Asked | None:
        """Who of those that wait, in their order, may start now; None where nobody may."""
        for asked in waiting:
            if self.fits(asked, running, idle_bytes):
                return asked
            if now - asked.since > PATIENCE_SECONDS or asked.alone:
                return None
        return None


@dataclass(frozen=True)
class Disk:
    """What is free, and what models that run will still write."""

    free_bytes: int
    promised: Mapping[str, int]  # model -> bytes
    limit_bytes: int | None = None  # for all that runs at a time

    def has_room(self, need: int) -> bool:
        """Whether a model that writes so much may begin."""
        promised = sum(self.promised.values())
        if self.limit_bytes is not None and promised and promised + need > self.limit_bytes:
            return False
        return need == 0 or promised + need + DISK_MARGIN_BYTES <= self.free_bytes
