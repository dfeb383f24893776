"""What the fp8 and compressed stages share: a folder written straight from the checkpoint, then loaded again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from pydantic import Field

from convert.bundle import Bundle
from convert.formats.compressed.folder_stage import CompressedStage, SchemeOptions, finished, job
from convert.progress import Progress
from convert.stage import Inputs

if TYPE_CHECKING:
    from convert.formats.compressed.scheme import Scheme
    from quantize.presets import Preset


class StraightOptions(SchemeOptions):
    """What both ask."""

    threads: int | None = Field(None, ge=1, description="CPU threads of the check at the end; all when left out")

    @property
    def preset(self) -> Preset:
        """How matrices are stored, and inputs rounded; each stage makes it of its own options."""
        raise NotImplementedError

    def as_scheme(self) -> Scheme:
        """The preset as a scheme of a folder."""
        from convert.formats.compressed.straight import CompressedScheme

        return CompressedScheme.of(self.preset)


S = TypeVar("S", bound=StraightOptions)


class StraightStage(CompressedStage[S]):
    """A folder written straight from the checkpoint: nothing is run."""

    TOOLS = ("numpy", "numba")
    NEEDS: ClassVar[Mapping[str, str]] = {"compressed_tensors": "gptq", "torch": "gptq", "transformers": "gptq"}

    def run(self, options: S, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
        """The checkpoint's folder in `out`, loaded again and looked at in a fresh process before it is handed on."""
        from convert.formats.compressed.straight import StraightLayout, write_weights

        with job(options, inputs, out, progress) as this:
            assert isinstance(this.layout, StraightLayout)  # by its scheme
            progress.start(f"writing {this.folder.name}", 1, "folder")
            weights = write_weights(this.folder, this.layout)
            bundle = finished(this, weights, this.layout.quantization)
            progress.advance(1)
        return bundle
