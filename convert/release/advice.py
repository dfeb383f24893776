"""Which file to take: by the memory there is, and where nobody says how much."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from convert.release.repository import Place
from validate.gates import PRESETS

MEMORIES_GB = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 80, 96, 128, 192, 256, 384, 512, 768)  # of what people have
AROUND = 1.1  # what a runtime takes beside the weights: context and buffers, by a tenth …
BESIDE_BYTES = 500_000_000  # … and half a gigabyte
CONTEXT = 8192  # tokens that memory is calculated for
SAME_SIZE = 1.02
GOOD_KL = PRESETS["good"].limits["kl_mean"]


@dataclass(frozen=True)
class Choice:
    """The best file for so much memory."""

    memory_gb: int
    place: Place
    needed_bytes: float


def needed_bytes(place: Place) -> float:
    """What it takes to run a file: calculated for GGUF, a rule of thumb by its size for others."""
    output = place.row.output
    return estimated_bytes(place) or (output.weights_size + output.projector_size) * AROUND + BESIDE_BYTES


def estimated_bytes(place: Place) -> int | None:
    """What llama.cpp takes for CONTEXT tokens, its projector loaded; None where that is not known of a file."""
    output = place.row.output
    if output.weights.format != "gguf":
        return None
    files = tuple(file.path for file in (output.weights, *output.parts))
    return _estimated(files, output.projector.path if output.projector else None)


@functools.cache
def _estimated(files: tuple[Path, ...], projector: Path | None) -> int | None:
    from convert.errors import InputError
    from convert.estimate.memory import estimate
    from convert.estimate.setting import Setting
    from convert.formats.gguf.memory import stored_file

    try:
        model = stored_file(files)
        of_images = stored_file([projector]) if projector else None
        return model.size + estimate(model, Setting(CONTEXT, images=projector is not None), of_images).beside
    except (InputError, ValueError, LookupError, TypeError, ArithmeticError, OSError):
        return None


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
