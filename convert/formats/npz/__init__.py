"""NPZ: numpy's archive of arrays, a text model's weights in float32 or float16, the companions beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from convert.bundle import Bundle, Role
from convert.formats.base import Asked, Format, Kind, Output, RecipeEntry, Sample, Support
from validate.marks import Mark

if TYPE_CHECKING:
    from convert.formats.facts import Facts
    from convert.source.checkpoint import Checkpoint


def outputs(stage: str, bundle: Bundle) -> Iterator[Output]:
    """Every archive is an output."""
    for weights in bundle.of(Role.WEIGHTS):
        if weights.format == "npz":
            yield Output(stage, weights)


def supports(checkpoint: Checkpoint) -> Support:
    """Text models."""
    return Support(("it has a vision tower, and this format is for text",) * ("vision_config" in checkpoint.config))


def inspect(path: Path, start: bytes) -> Facts | None:
    """The arrays, from the headers of the archive's members; None where the name says no .npz."""
    from convert.formats.npz.archive import inspect

    return inspect(path) if path.suffix == ".npz" and start.startswith(b"PK") else None


def previews(sample: Sample) -> Iterator[Asked]:
    """What `convert inspect CHECKPOINT` asks."""
    del sample
    yield Asked("npz")


FORMAT = Format(
    name="npz",
    title="NPZ",
    kinds=(Kind("npz", "NPZ", Mark("flag", "#8a5a00"), runtimes=("npz",)),),
    stages={"npz": "convert.formats.npz.stage:STAGE"},
    outputs=outputs,
    supports=supports,
    inspect=inspect,
    previews=previews,
    rank=90,
    recipe=(RecipeEntry("npz", "npz", "For numpy: one archive of arrays.", "precision: fp32 # or fp16"),),
)
