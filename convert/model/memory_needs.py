"""What running the source takes of a machine, for the stages that run it: read from headers."""

from __future__ import annotations

from convert.bundle import Bundle, Role
from convert.needs import GB, MB, Needs
from validate import memory

LIBRARIES = 700 * MB  # torch and transformers, loaded
SMALL = 256 * MB  # of weights: below it a step is more start-up than arithmetic, and keeps one core busy


def cores_for(source: Bundle) -> int:
    """How many cores a step keeps busy: one where the model is small, else all (0)."""
    return 1 if sum(a.size for a in source.of(Role.WEIGHTS)) < SMALL else 0


def reference_needs(source: Bundle, more_bytes: int = 0, *, scratch_bytes: int = 0) -> Needs:
    """Of the source on transformers: its largest layer at least, and `more_bytes` beside it."""
    files = [a.path for a in source.of(Role.WEIGHTS) if a.path.is_file()]
    weights = memory.weights(files).layered_bytes
    activations = min(GB, weights // 4)
    return Needs(LIBRARIES + weights + activations + more_bytes, cores_for(source), scratch_bytes)
