"""An importance matrix: how much each column of a matrix matters, measured on a text, for encoders to weigh errors.

The source runs on transformers once; the result is a GGUF file that llama-quantize reads too. A gguf stage that takes
`from:` this one uses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from convert.bundle import Artifact, Bundle
from convert.calibration import mix
from convert.errors import InputError, Problem
from convert.model.memory_needs import Passes, reference_needs
from convert.needs import Needs
from convert.options import Options, RecipePath
from convert.progress import Progress
from convert.stage import Inputs, Stage, checkpoint, only

if TYPE_CHECKING:
    from convert.formats.gguf.calibration import Corpus


class ImatrixOptions(Options):
    """On what to measure."""

    text: RecipePath | None = Field(
        None,
        description="UTF-8 text like what the model will be used for, not what it is tested on; "
        "a mix of our own when left out",
    )
    chunks: int = Field(128, ge=1, le=1 << 20, description="windows of the text to use, from its start")
    window: int = Field(512, ge=16, le=32768, description="tokens a window")
    parse_special: bool = Field(
        default=False,
        description="read special tokens that the text spells out (<|im_start|>) as special tokens",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; all when left out")


def file_name(source: Bundle) -> str:
    """As the hub has them."""
    return f"{source.model.name}-imatrix.gguf"


def _corpus(options: ImatrixOptions) -> Corpus:
    from convert.formats.gguf.calibration import Corpus

    return Corpus(options.text, options.chunks, options.window, options.parse_special, options.threads)


class ImatrixStage(Stage[ImatrixOptions]):
    """An importance matrix: how much each column of a matrix matters, measured on a text, for the quantizers."""

    NAME = "imatrix"
    VERSION = 1
    TOOLS = ("torch", "transformers", "tokenizers", "numpy")
    NEEDS: ClassVar[Mapping[str, str]] = {"torch": "validate", "transformers": "validate"}
    Options = ImatrixOptions

    def versions(self, options: ImatrixOptions) -> Mapping[str, str]:
        """What the default mix says, where that is measured on."""
        return {} if options.text else {mix.NAME: mix.sha256()}

    def measured_on(self, options: ImatrixOptions) -> str:
        """What the matrix will say it was measured on."""
        return _corpus(options).name

    def calibrates(self, options: ImatrixOptions) -> list[Path]:
        """The text, or what our mix is made of."""
        return [options.text] if options.text else mix.files()

    def check(self, options: ImatrixOptions, inputs: Inputs) -> list[Problem]:
        """A text that is none, a window the model was not made for, an architecture nobody knows, too little memory."""
        from convert.formats.gguf.calibration import check_calibration

        try:
            source = checkpoint("imatrix", inputs)
        except InputError as error:
            return [error.problem]
        return check_calibration(source, _corpus(options))

    def forecast(self, options: ImatrixOptions, inputs: Inputs) -> Bundle:
        """The source's bundle and the matrix, with its exact size where the text is long enough."""
        from convert.formats.gguf.calibration import read_matrices
        from convert.formats.gguf.imatrix import KIND, Imatrix, imatrix_plan

        source = checkpoint("imatrix", inputs)
        matrices = read_matrices(source)
        about = Imatrix({}, (_corpus(options).name,), options.chunks, options.window, "0" * 64)
        shapes = {name: matrices.entry_shape(name) for name in matrices.shapes}
        plan = imatrix_plan(file_name(source), shapes, about)
        return source.with_(imatrix=Artifact(KIND, Path(plan.name), plan.size))

    def needs(self, options: ImatrixOptions, inputs: Inputs, made: Bundle) -> Needs:
        """The source on transformers."""
        return reference_needs(only(inputs), passes=Passes(options.chunks * options.window))

    def explain(self, options: ImatrixOptions, inputs: Inputs) -> Iterator[str]:
        """What will be measured, for `convert plan -v`."""
        from convert.formats.gguf.calibration import read_matrices

        shapes = read_matrices(checkpoint("imatrix", inputs)).shapes
        yield f"{len(shapes)} matrices on {options.chunks} chunks of {options.window} tokens of {_corpus(options).name}"

    def run(self, options: ImatrixOptions, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
        """The source's bundle with the matrix beside it."""
        from convert.formats.gguf.calibration import calibrate, read_matrices
        from convert.formats.gguf.imatrix import coverage, write_imatrix
        from convert.model.reference import passes_folder

        source = checkpoint("imatrix", inputs)
        imatrix = calibrate(source, _corpus(options), progress, passes_folder(out))
        first, *lacking = coverage(imatrix, read_matrices(source).shapes)
        progress.note(first)
        for line in lacking:
            progress.warn(line)
        return only(inputs).with_(imatrix=write_imatrix(out / file_name(source), imatrix))


STAGE = ImatrixStage()
