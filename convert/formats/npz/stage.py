"""NPZ archives of text models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from convert.bundle import Artifact, Bundle, Role
from convert.errors import InputError, Problem
from convert.files import HashedFile
from convert.formats.npz import supports
from convert.formats.npz.archive import size, write
from convert.options import Options
from convert.progress import Progress
from convert.source.checkpoint import Checkpoint, open_bundle
from convert.stage import Inputs, Stage, checkpoint
from quantize.floats import to_float32

BESIDE = (Role.CONFIG, Role.TOKENIZER, Role.CHAT_TEMPLATE, Role.GENERATION)
DTYPES: Mapping[str, np.dtype] = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16)}
KINDS = {"fp32": "npz/F32", "fp16": "npz/F16"}


class NpzOptions(Options):
    """Which floats."""

    precision: Literal["fp32", "fp16"] = Field("fp32", description="of the arrays")


class NpzStage(Stage[NpzOptions]):
    """NPZ archives: the weights of a text model as numpy's arrays."""

    NAME = "npz"
    VERSION = 1
    TOOLS = ("numpy",)
    Options = NpzOptions

    def check(self, options: NpzOptions, inputs: Inputs) -> list[Problem]:
        try:
            source = open_bundle(checkpoint(self.NAME, inputs))
        except InputError as error:
            return [error.problem]
        return [Problem("npz", why, "a text model") for why in supports(source).missing]

    def forecast(self, options: NpzOptions, inputs: Inputs) -> Bundle:
        source = checkpoint(self.NAME, inputs)
        shapes = {name: tensor.shape for name, tensor in open_bundle(source).tensors.items()}
        predicted = size(shapes, DTYPES[options.precision])
        return source.with_(weights=Artifact(KINDS[options.precision], Path(f"{source.model.name}.npz"), predicted))

    def run(self, options: NpzOptions, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
        source = checkpoint(self.NAME, inputs)
        opened = open_bundle(source)
        progress.start("writing arrays", sum(tensor.nbytes for tensor in opened.tensors.values()))
        with HashedFile(out / f"{source.model.name}.npz") as file:
            write(file, _arrays(opened, DTYPES[options.precision], progress))
        made = source.with_(weights=file.artifact(KINDS[options.precision]))
        return made.with_(**{role: _copies(source, role, out) for role in BESIDE})


def _arrays(source: Checkpoint, dtype: np.dtype, progress: Progress) -> Iterator[tuple[str, np.ndarray]]:
    for name, tensor in source.tensors.items():
        yield name, to_float32(tensor.load()).astype(dtype)
        tensor.release()
        progress.advance(tensor.nbytes)


def _copies(source: Bundle, role: Role, out: Path) -> tuple[Artifact, ...]:
    copies = []
    for artifact in source.of(role):
        with HashedFile(out / artifact.path.name) as file:
            file.write(artifact.path.read_bytes())
        copies.append(file.artifact(artifact.kind))
    return tuple(copies)


STAGE = NpzStage()
