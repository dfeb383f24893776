"""What the gptq and awq stages share besides: calibration, and the worker that quantizes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from pydantic import Field

from convert.bundle import Bundle, Role
from convert.calibration import mix
from convert.calibration.options import Calibration, check_files, check_fit
from convert.errors import Problem
from convert.formats.compressed.folder_stage import CompressedStage, Job, SchemeOptions, finished, job, run_child
from convert.json_types import JsonDict
from convert.model.memory_needs import Passes, reference_needs
from convert.model.statistics import Statistics, has_grams
from convert.needs import Needs
from convert.progress import Progress
from convert.stage import Inputs, only

if TYPE_CHECKING:
    from convert.formats.compressed.folder import Layout
    from convert.formats.compressed.scheme import Scheme


GRAMS = 2.5  # a Gram matrix, its inverse's factor, and half of one while that is made
COPIES = (
    6  # of the weights of a group in float32: values, levels, scales spread over them, errors, a gradient, a product
)


class CalibratedOptions(SchemeOptions):
    """What the two that calibrate ask besides."""

    calibration: Calibration = Field(
        default_factory=lambda: Calibration.model_validate({}),
        description="what to measure on, not what the outputs are tested on; a mix of our own when it names no file",
    )

    sequential: bool = Field(
        default=True,
        description="make each layer for what the quantized layers before it give, not the source's; from the "
        "statistics of a calibration stage always the source's",
    )
    calibrate_all_experts: bool = Field(
        default=False, description="measure every expert on every token, also on those that the router sends elsewhere"
    )

    @property
    def scheme(self) -> Scheme:
        """What is asked of the quantizer."""
        raise NotImplementedError

    def as_scheme(self) -> Scheme:
        """The same, as every stage that makes a folder is asked for it."""
        return self.scheme


C = TypeVar("C", bound=CalibratedOptions)


def arithmetic_bytes(rows: int, columns: int) -> int:
    """What a matrix takes while its integers are found; one that has more rows than columns has another beside it."""
    together = 2 if rows > columns else 1
    return int(4 * (GRAMS * columns**2 + COPIES * together * rows * columns))


def quantized_layers(job: Job[C]) -> tuple[JsonDict, Path]:
    """Have the worker make the weights; what it says of the calibration, and where the layers lie."""
    progress, layers, asked = job.progress, job.layout.decision.layers, job.options.calibration
    progress.start(f"quantizing {layers} layers", layers, "layer")
    result = run_child(job, "convert.formats.compressed.worker", [str(_request(job))])
    words: JsonDict = {"samples": asked.samples, "length": asked.length, "seed": asked.seed}
    if job.source.of(Role.STATISTICS):
        words = Statistics.of(job.source).rows
    return words | {word: result[word] for word in ("rows", "tokens", "sha256")}, Path(str(result["layers"]))


def _request(job: Job[C]) -> Path:
    """The file that tells the worker what to do."""
    from convert.model.reference import link_files

    linked = job.work / "source"
    linked.mkdir()
    link_files(job.source, linked, code=False)
    kept = [str(a.path) for a in job.source.of(Role.STATISTICS)]
    request = {
        "source": str(linked),
        "statistics": kept,
        "scheme": asdict(job.scheme),
        "calibration": asdict(job.options.calibration.description),
        "threads": job.threads,
        "kept": str(job.kept),
        "key": _key(job),
    }
    path = job.work / "request.json"
    path.write_text(json.dumps(request), encoding="utf-8")
    return path


def _key(job: Job[C]) -> str:
    """All that decides what a layer becomes, but the rows."""
    from validate import provenance

    weights = [(a.path.name, a.sha256, a.size) for a in job.source.of(Role.WEIGHTS)]
    weights += [(a.path.name, a.sha256, a.size) for a in job.source.of(Role.STATISTICS)]
    words = {"weights": weights, "scheme": asdict(job.scheme), "versions": provenance.versions(CalibratedStage.TOOLS)}
    return json.dumps(words, sort_keys=True)


class CalibratedStage(CompressedStage[C]):
    """What the two that calibrate share; the folder is loaded again by gptqmodel's kernels."""

    TOOLS = ("torch", "transformers", "tokenizers", "numpy")
    NEEDS: ClassVar[Mapping[str, str]] = {
        "gptqmodel": "gptq",
        "optimum": "gptq",
        "torch": "gptq",
        "transformers": "gptq",
    }

    def check_options(self, options: C, layout: Layout) -> None:
        """Raise InputError for calibration files that are missing or wrong, and for rows the model cannot take."""
        where = options.scheme.method
        check_files(where, options.calibration)
        check_fit(where, options.calibration, layout.checkpoint.config, layout.has_vision)

    def reads(self, options: C) -> list[Path]:
        """The files calibrated on, and the screenshots they name."""
        return options.calibration.reads

    def check(self, options: C, inputs: Inputs) -> list[Problem]:
        """What keeps the model from being quantized so, and statistics that are not enough for it."""
        problems = super().check(options, inputs)
        if problems or not (source := only(inputs)).of(Role.STATISTICS):
            return problems
        (stage,) = inputs
        where = options.scheme.method
        if not has_grams(source):
            got = f"stage '{stage}' keeps no Gram matrices"
            problems.append(Problem(where, got, "", f"say `grams: true` in '{stage}', or take `from: source`"))
        if "calibration" in options.model_fields_set:
            got = f"calibration: beside `from: {stage}`, which says what was read"
            problems.append(Problem(where, got, "", "leave one of them out"))
        if options.sequential and "sequential" in options.model_fields_set:
            got = f"sequential: true from the statistics of '{stage}'"
            problems.append(Problem(where, got, "", "take `from: source`: layers are then made one after the other"))
        return problems

    def needs(self, options: C, inputs: Inputs, made: Bundle) -> Needs:
        """The source one layer at a time and Gram matrices of the widest matrix; on disk what is kept of the layers."""
        from convert.formats.compressed.folder_stage import layout_of

        source, asked = only(inputs), options.calibration
        layout = layout_of(source, options.scheme)
        shapes = [layout.matrices[module] for module in layout.decision.quantized]
        arithmetic = max((arithmetic_bytes(*shape) for shape in shapes), default=0)
        written = sum(a.size for a in made.of(Role.WEIGHTS))
        passes = Passes(0 if source.of(Role.STATISTICS) else asked.samples * asked.length)
        return reference_needs(source, arithmetic, scratch_bytes=written, passes=passes)

    def versions(self, options: C) -> Mapping[str, str]:
        """What the default mix says, where the model reads that."""
        return options.calibration.versions

    def explain(self, options: C, inputs: Inputs) -> Iterator[str]:
        """The default mix too, where the model reads that."""
        yield from super().explain(options, inputs)
        asked = options.calibration
        if only(inputs).of(Role.STATISTICS):
            yield "quantizes what the calibration stage measured; no model is run"
        elif not asked.files:
            yield f"calibrates on {mix.NAME}: {asked.samples} rows of {asked.length} tokens"

    def calibrates(self, options: C) -> list[Path]:
        """The same files, or those of the mix: the weights are fitted to them."""
        return self.reads(options) if options.calibration.files else mix.files()

    def run(self, options: C, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
        """The checkpoint's folder in `out`, loaded again and looked at in a fresh process before it is handed on."""
        from convert.formats.compressed.folder import write_weights
        from convert.formats.compressed.kept_layers import KeptLayers
        from convert.formats.compressed.scheme import quantization_config

        with job(options, inputs, out, progress) as this:
            measured, layers = quantized_layers(this)
            weights = write_weights(this.folder, this.layout, KeptLayers(layers).tensors())
            words = quantization_config(this.layout.scheme, this.layout.towers, measured, this.layout.head)
            return finished(this, weights, words)
