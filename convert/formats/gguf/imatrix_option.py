"""The option `imatrix:` of a gguf stage: a file, a calibration on the way, or none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from convert.formats.gguf.imatrix_stage import ImatrixOptions
from convert.options import Options, RecipePath


class Calibration(Options):
    """An importance matrix made on the way."""

    calibrate: RecipePath | None = Field(
        None, description="UTF-8 text that the model reads while its activations are measured; a mix of our own if none"
    )
    chunks: int = Field(128, ge=1, le=1 << 20, description="windows of the text, from its start")
    window: int = Field(512, ge=16, le=32768, description="tokens a window")
    parse_special: bool = Field(
        default=False,
        description="read special tokens that the text spells out (<|im_start|>) as special tokens",
    )

    @property
    def asked(self) -> ImatrixOptions:
        """The options of the stage that makes such a matrix."""
        return ImatrixOptions(
            text=self.calibrate, chunks=self.chunks, window=self.window, parse_special=self.parse_special, threads=None
        )


def _imatrix_kind(value: object) -> object:
    """One message where a union's members would each have theirs."""
    if isinstance(value, Mapping):
        known = Calibration.model_fields
        if value.keys() - known:
            raise ValueError(f"{dict(value)} is not a calibration, wanted the keys {', '.join(known)}")
    elif not (value is None or value is False or isinstance(value, str | Path | Calibration)):
        raise ValueError(
            f"{value!r} is not an imatrix, wanted false, a file, or {{calibrate: text.txt, chunks: 128, window: 512}}"
        )
    return value


def _which_imatrix(value: object) -> str:
    return "calibration" if isinstance(value, Mapping | Calibration) else "none" if not value else "file"


ImatrixOption = Annotated[
    Annotated[
        Annotated[Literal[False] | None, Tag("none")]
        | Annotated[RecipePath, Tag("file")]
        | Annotated[Calibration, Tag("calibration")],
        Discriminator(_which_imatrix),
    ],
    BeforeValidator(_imatrix_kind),
]
