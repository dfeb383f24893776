"""MLX: folders for Apple's machines, which mlx-lm and mlx-vlm load, in 2 to 8 bits, better rounded than theirs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from convert.bundle import Bundle, Role
from convert.formats.base import (
    Asked,
    Format,
    Found,
    Kind,
    Output,
    RecipeEntry,
    Release,
    Sample,
    Support,
    plain_release,
)
from validate.marks import Mark

if TYPE_CHECKING:
    from convert.architectures import Family
    from convert.formats.facts import Facts, Hyperparameter, TensorPair
    from convert.source.checkpoint import Checkpoint

NO_IMAGES = "mlx-lm runs the text model of a folder; mlx-vlm, which takes images, needs packages that are not asked for"
NOTE = "mlx-lm on the CPU, its floats widened to float32: what the numbers are worth, not how a GPU rounds them."


def outputs(stage: str, bundle: Bundle) -> Iterator[Output]:
    """A folder is an output: its weights, their other files and the index."""
    files = bundle.of(Role.WEIGHTS)
    for weights in files:
        if weights.format == "mlx":
            parts = tuple(file for file in files if file.kind == f"mlx-part/{weights.type}")
            fit = next((a for a in bundle.of(Role.FIT) if a.path.name == f"{weights.path.parent.name}.fit.json"), None)
            text_only = NO_IMAGES if bundle.of(Role.PREPROCESSOR) else ""
            yield Output(stage, weights, parts, text_only=text_only, fit=fit)


def supports(checkpoint: Checkpoint) -> Support:
    """Models that mlx-lm has a file for, and that are declared here."""
    from convert.formats.mlx.supports import supports

    return supports(checkpoint)


def supports_family(family: Family) -> Support:
    """The same, by the family's name."""
    from convert.formats.mlx.supports import supports_family

    return supports_family(family)


def inspect(path: Path, start: bytes) -> Facts | None:
    """None: its files are safetensors, which are read without it."""
    del path, start
    return None


def recognize(path: Path, projector: Path | None) -> Found | None:
    """The folder of a checkpoint whose config.json has MLX's `quantization`."""
    from convert.formats.mlx.existing import recognize

    return recognize(path, projector)


def previews(sample: Sample) -> Iterator[Asked]:
    """In its usual bits."""
    del sample
    yield Asked("mlx")


def tensor_pairs(output: Output, folder: Path) -> Iterator[TensorPair]:
    """The tensors of a folder, decoded, beside those of the checkpoint."""
    from convert.formats.mlx.against import tensor_pairs

    return tensor_pairs(_weight_files(output), folder)


def hyperparameters(output: Output, folder: Path) -> Iterator[Hyperparameter]:
    """What a folder's config.json states of the model, and which tensors it has."""
    from convert.formats.mlx.against import missing
    from convert.formats.stated import stated

    yield from stated(output.weights.path.parent, folder)
    yield from missing(_weight_files(output), folder)


def _weight_files(output: Output) -> list[Path]:
    return [file.path for file in (output.weights, *output.parts) if file.path.suffix == ".safetensors"]


def release(output: Output, folder: Path) -> Release:
    """As mlx-community calls them, Model-4bit, Model-mxfp4; what lies beside the weights goes with it."""
    home = output.weights.path.parent
    made = plain_release(output, folder, f"-{output.weights.type.lower()}")
    beside = {path.relative_to(home).as_posix(): path for path in sorted(home.rglob("*")) if path.is_file()}
    return replace(made, files=beside)


FORMAT = Format(
    name="mlx",
    title="MLX",
    kinds=(Kind("mlx", "MLX", Mark("chevron", "#3b6e1f", "#8fd06a"), ("mlx_lm",), note=NOTE),),
    stages={"mlx": "convert.formats.mlx.stage:STAGE"},
    outputs=outputs,
    supports=supports,
    supports_family=supports_family,
    inspect=inspect,
    recognize=recognize,
    previews=previews,
    tensor_pairs=tensor_pairs,
    hyperparameters=hyperparameters,
    release=release,
    rank=15,
    recipe=(RecipeEntry("mlx", "mlx", "For Macs: mlx-lm, mlx-vlm, LM Studio.", "bits: 4 # 2, 3, 4, 5, 6 or 8"),),
    wanted="the folder of an MLX model",
)
