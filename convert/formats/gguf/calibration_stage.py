"""One pass over calibration rows for all stages that want to know what goes into a model's matrices.

The source runs once, one layer at a time. What went into each matrix is kept: an importance matrix for GGUF stages, and
Gram matrices that GPTQ and AWQ stages are made from without running the model again, in as many bits and groups as are
asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from convert import architectures
from convert.bundle import Artifact, Bundle, Role
from convert.calibration import mix
from convert.calibration.options import Calibration, check_files, check_fit
from convert.errors import ConvertError, Problem
from convert.model import fisher_file
from convert.model.memory_needs import Passes, reference_needs
from convert.model.statistics import PLAIN, WITH_GRAMS, file_of, gram_bytes
from convert.needs import Needs
from convert.progress import Progress
from convert.stage import Inputs, Stage, checkpoint, only

if TYPE_CHECKING:
    from convert.formats.gguf.calibration import Matrices

FOLDER = "statistics"
SUM_BYTES = 8 + 8 + 4  # a column's sums
SHARE = ("attn_k.", "attn_v.", "ffn_up.", "ffn_up_exps.", "ffn_up_shexp.")  # given what q or gate are given


class CalibrationOptions(Calibration):
    """What is read, and what is kept of it."""

    grams: bool = Field(True, description="keep Gram matrices, which gptq and awq stages need; imatrix needs none")
    calibrate_all_experts: bool = Field(
        False, description="measure every expert on every token, also on those that the router sends elsewhere"
    )
    fisher: bool = Field(
        False,
        description="keep what an error in each matrix costs too, which `fit:` chooses types by: a pass more, forwards "
        "and backwards, over 8192 of the tokens",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; all when left out")


class CalibrationStage(Stage[CalibrationOptions]):
    """One pass over calibration rows, for imatrix, GPTQ and AWQ stages that take `from:` it."""

    NAME = "calibration"
    VERSION = 2
    TOOLS = ("torch", "transformers", "tokenizers", "numpy")
    NEEDS: ClassVar[Mapping[str, str]] = {"torch": "validate", "transformers": "validate"}
    Options = CalibrationOptions

    def versions(self, options: CalibrationOptions) -> Mapping[str, str]:
        """What the default mix says, where the model reads that."""
        return options.versions

    def reads(self, options: CalibrationOptions) -> list[Path]:
        """The files calibrated on, and the screenshots they name."""
        return options.reads

    def calibrates(self, options: CalibrationOptions) -> list[Path]:
        """The same files, or what our mix is made of."""
        return options.reads if options.files else mix.files()

    def check(self, options: CalibrationOptions, inputs: Inputs) -> list[Problem]:
        """Files that are missing or wrong, rows that the model cannot take, an architecture nobody knows."""
        from convert.formats.gguf.calibration import read_matrices
        from convert.model.reference import check_memory
        from convert.source.checkpoint import open_bundle

        try:
            source = checkpoint(self.NAME, inputs)
            check_files(self.NAME, options)
            found = open_bundle(source)
            check_fit(self.NAME, options, found.config, architectures.find(found.config).has_vision)
            read_matrices(source)
        except ConvertError as error:
            return [p if isinstance(p, Problem) else Problem(self.NAME, p) for p in error.problems]
        return check_memory(source, self.NAME)

    def forecast(self, options: CalibrationOptions, inputs: Inputs) -> Bundle:
        """The source's bundle, the importance matrix and a file a layer, about as large as they will be."""
        from convert.formats.gguf.calibration import LAYER, read_matrices
        from convert.formats.gguf.imatrix import KIND, Imatrix, imatrix_plan
        from convert.formats.gguf.imatrix_stage import file_name

        source = checkpoint(self.NAME, inputs)
        matrices = read_matrices(source)
        about = Imatrix({}, (options.source_name,), options.samples, options.length, "0" * 64)
        plan = imatrix_plan(file_name(source), {n: matrices.entry_shape(n) for n in matrices.shapes}, about)
        kind = WITH_GRAMS if options.grams else PLAIN
        sizes: dict[int, int] = {}
        for name in matrices.by_source:
            if found := LAYER.search(name):
                layer = int(found[1])
                sizes[layer] = sizes.get(layer, 0) + _kept_bytes(matrices, name, options.grams)
        layers = (Artifact(kind, Path(FOLDER, file_of(n)), size) for n, size in sorted(sizes.items()))
        made = source.with_(imatrix=Artifact(KIND, Path(plan.name), plan.size), statistics=tuple(layers))
        return made.with_(gradients=_forecast_gradients(matrices)) if options.fisher else made

    def needs(self, options: CalibrationOptions, inputs: Inputs, made: Bundle) -> Needs:
        """The source one layer at a time, and what is kept of a layer, twice while it is written."""
        largest = max((artifact.size for artifact in made.of(Role.STATISTICS)), default=0)
        return reference_needs(only(inputs), 4 * largest, passes=Passes(options.samples * options.length))

    def explain(self, options: CalibrationOptions, inputs: Inputs) -> Iterator[str]:
        """What will be read, for `convert plan -v`."""
        yield f"{options.samples} rows of {options.length} tokens of {options.source_name}"

    def run(self, options: CalibrationOptions, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
        """The source's bundle, with an importance matrix and the statistics of every layer beside it."""
        from convert.formats.gguf.calibration import read_matrices
        from convert.formats.gguf.calibration_pass import gather
        from convert.formats.gguf.imatrix import coverage, write_imatrix
        from convert.formats.gguf.imatrix_stage import file_name

        source = checkpoint(self.NAME, inputs)
        (out / FOLDER).mkdir()
        imatrix, layers, gradients = gather(source, options, out / FOLDER, progress)
        first, *lacking = coverage(imatrix, read_matrices(source).shapes)
        progress.note(first)
        for line in lacking:
            progress.warn(line)
        matrix = write_imatrix(out / file_name(source), imatrix)
        return only(inputs).with_(imatrix=matrix, statistics=layers, gradients=gradients)


def _forecast_gradients(matrices: Matrices) -> Artifact:
    shapes = [(shape[0] if len(shape) > 2 else 1, shape[-2], shape[-1]) for shape in matrices.shapes.values()]
    return Artifact(fisher_file.KIND, Path(FOLDER, fisher_file.FILE), fisher_file.forecast_bytes(shapes, 0))


def _kept_bytes(matrices: Matrices, tensor: str, grams: bool) -> int:
    """Of what goes into a checkpoint's tensor; nothing where another stands for it."""
    names = [name for name in matrices.by_source[tensor] if not any(word in name for word in SHARE)]
    total = 0
    for experts, columns in map(matrices.entry_shape, names[:1]):
        total += experts * (SUM_BYTES * columns + (gram_bytes(columns) if grams else 0))
    return total


STAGE = CalibrationStage()
