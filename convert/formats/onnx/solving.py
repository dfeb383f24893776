"""GPTQ's integers for 4-bit graphs: the gptq stage's own pass over the calibration rows, or a calibration stage's sums.

What it keeps of each layer is read again when the graph is written: integers, scales and zero points by the
checkpoint's modules; and with `scale: true` the norms that took factors, which take the place of the checkpoint's.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convert.bundle import Bundle, Role
from convert.errors import ConvertError, InputError, Problem
from convert.files import STATE_FOLDER
from convert.formats.compressed.calibrated_stage import CalibratedOptions, arithmetic_bytes, quantized_layers
from convert.formats.compressed.folder_stage import Job, layout_of
from convert.formats.compressed.kept_layers import WORDS, KeptLayers, unpacked
from convert.formats.compressed.scheme import Scheme
from convert.formats.onnx.int4 import VALUES
from convert.formats.onnx.joined import Stored
from convert.formats.onnx.linears import PRODUCTS
from convert.model.memory_needs import Passes, reference_needs
from convert.model.reference import check_memory
from convert.model.statistics import has_grams
from convert.needs import Needs
from convert.progress import Progress
from convert.source.safetensors import read_header
from quantize import gptq_layout

if TYPE_CHECKING:
    from convert.calibration.options import Calibration
    from convert.formats.compressed.folder import Layout
    from convert.formats.onnx.blocks import Int4
    from convert.source.checkpoint import LazyTensor
    from quantize.grids import Quantized

SCALES = "scales"


@dataclass(frozen=True)
class Asked:
    """How integers are found: the blocks, what to measure on, AWQ's factors too, and how long to search."""

    int4: Int4
    calibration: Calibration
    scale: bool = False
    effort: str = "normal"


class _Options(CalibratedOptions):
    """The same, as the stages of compressed folders are asked."""

    kept: tuple[str, ...] = ()
    block_size: int = 32
    symmetric: bool = True
    scale: bool = False
    effort: str = "normal"

    @property
    def scheme(self) -> Scheme:
        """That of the gptq stage with the same group size."""
        return Scheme(
            "gptq",
            4,
            self.block_size,
            self.symmetric,
            scale=self.scale,
            effort=self.effort,
            sequential=self.sequential,
            keep=self.kept,
        )


@dataclass(frozen=True)
class Found:
    """What was made of the layers: tensors by the checkpoint's modules, and what was calibrated on."""

    tensors: Mapping[str, LazyTensor]
    scheme: Scheme
    changed: Mapping[str, Stored]  # norms and biases with other values than the checkpoint's, by its names

    def of_tensor(self, name: str) -> Quantized | None:
        """The integers of a tensor of the checkpoint; None where it has none."""
        module = name.removesuffix(".weight")
        parts = {
            word: np.array(self.tensors[key].load()) for word in WORDS if (key := f"{module}.{word}") in self.tensors
        }
        if not parts:
            return None
        scales = np.ascontiguousarray(self.tensors[f"{module}.{SCALES}"].load().T)
        return unpacked(parts, scales, self.scheme)


def check(asked: Asked, source: Bundle, *, named: bool) -> list[Problem]:
    """What keeps the model from being calibrated, by headers and the files alone; `named`: the recipe says on what."""
    from convert.calibration.options import check_files, check_fit

    try:
        layout = layout_of(source, _options(asked, source).scheme)
        layout.check_layers()
        _check_blocks(layout)
        check_files("onnx", asked.calibration)
        check_fit("onnx", asked.calibration, layout.checkpoint.config, layout.has_vision)
    except ConvertError as error:
        return [p if isinstance(p, Problem) else Problem("onnx", p) for p in error.problems]
    if named and has_grams(source):
        got = "calibration: beside a stage that has calibrated, which says what was read"
        return [Problem("onnx", got, "", "leave one of them out")]
    return check_memory(source, "onnx")


def _check_blocks(layout: Layout) -> None:
    """Raise InputError for a matrix that GPTQ's arithmetic cannot put into blocks: it fills none up."""
    for module in layout.decision.quantized:
        if reason := gptq_layout.unsuitable(layout.matrices[module], layout.scheme.group_size):
            got = reason.replace("group_size", "block_size")
            raise InputError(f"{module}.weight", got, "", "another block_size, or leave `calibration` out")


def needs(asked: Asked, source: Bundle, made: Bundle) -> Needs:
    """The gptq stage's, for the same matrices."""
    options = _options(asked, source)
    shapes = [
        layout.matrices[module]
        for layout in [layout_of(source, options.scheme)]
        for module in layout.decision.quantized
    ]
    arithmetic = max((arithmetic_bytes(*shape) for shape in shapes), default=0)
    passes = Passes(0 if has_grams(source) else asked.calibration.samples * asked.calibration.length)
    return reference_needs(source, arithmetic, scratch_bytes=sum(a.size for a in made.of(Role.WEIGHTS)), passes=passes)


@contextmanager
def solved(asked: Asked, source: Bundle, out: Path, progress: Progress) -> Iterator[Found]:
    """The integers, while the context is open. A run that was killed goes on at the layer where it was."""
    options = _options(asked, source)
    layout = layout_of(source, options.scheme)
    kept = out.parent / STATE_FOLDER / "onnx-layers" / out.name
    with tempfile.TemporaryDirectory(prefix=".work-", dir=out) as name:
        _, folder = quantized_layers(Job(options, source, layout, out, Path(name), kept, progress))
        yield _found(folder, layout.scheme)
    shutil.rmtree(kept, ignore_errors=True)


def _options(asked: Asked, source: Bundle) -> _Options:
    int4 = asked.int4
    options = _Options(
        name=None,
        threads=None,
        calibration=asked.calibration,
        block_size=int4.block_size,
        symmetric=int4.symmetric,
        scale=asked.scale,
        effort=asked.effort,
    )
    modules = layout_of(source, options.scheme).decision.quantized
    products = [module for module in modules if PRODUCTS[0].search(module)]
    kept = [module for module in modules if VALUES[0].search(module)] if int4.v_proj == 8 else []
    kept += [products[0], products[-1]] if products and int4.edge_down == 8 else []
    return options.model_copy(update={"kept": tuple(kept)})


def _found(folder: Path, scheme: Scheme) -> Found:
    tensors = KeptLayers(folder).tensors()
    made = {*WORDS, SCALES}
    changed = {
        entry.name: Stored(entry.name, entry.dtype, entry.shape, path, entry.start, entry.stop)
        for path in sorted(folder.glob("*.safetensors"))
        if ".factors" not in path.name
        for entry in read_header(path).entries
        if entry.name.rpartition(".")[2] not in made
    }
    if not tensors:
        raise InputError("onnx", "GPTQ made no layer", "every layer of the model")
    return Found(tensors, scheme, changed)
