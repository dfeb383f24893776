"""Which file to take: by the memory there is, and where nobody says how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convert.release.repository import Place
from validate.gates import PRESETS

MEMORIES_GB = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 80, 96, 128, 192, 256, 384, 512, 768)  # of what people have
AROUND = 1.1  # what a runtime takes beside the weights: context and buffers, by a tenth …
BESIDE_BYTES = 500_000_000  # … and half a gigabyte
SAME_SIZE = 1.02
GOOD_KL = PRESETS["good"].limits["kl_mean"]


@dataclass(frozen=True)
class Choice:
    """The best file for so much memory."""

    memory_gb: int
    place: Place
    needed_bytes: float


def needed_bytes(place: Place) -> float:
    """About what it takes to run a file: a rule of thumb, of its size alone."""
    output = place.row.output
    return (output.weights_size + output.projector_size) * AROUND + BESIDE_BYTES


def choices(places: Sequence[Place]) -> list[Choice]:
    """For each usual amount of memory the file that drifts least of those that fit, where that is another one."""
    found: list[Choice] = []
    for memory in MEMORIES_GB:
        fitting = [place for place in places if needed_bytes(place) <= memory * 1e9 and place.row.status == "passed"]
        if fitting:
            best = min(fitting, key=_drift)
            if not found or found[-1].place is not best:
                found.append(Choice(memory, best, needed_bytes(best)))
    return found


def first(places: Sequence[Place]) -> Place:
    """What to take where nothing else is known: the smallest that is still good, else what drifts least."""
    passed = [place for place in places if place.row.status == "passed"] or list(places)
    good = [place for place in passed if _drift(place)[0] <= GOOD_KL]
    if good:
        smallest = min(place.row.output.weights_size for place in good)
        return min((p for p in good if p.row.output.weights_size <= smallest * SAME_SIZE), key=_drift)
    return min(passed, key=_drift)


def _drift(place: Place) -> tuple[float, int]:
    """Mean KL, and size where two drift alike; what was not measured comes last."""
    entry = place.row.entry
    kl = entry["metrics"].get("kl_mean") if entry else None
    return (float("inf") if kl is None else kl, place.row.output.weights_size)
