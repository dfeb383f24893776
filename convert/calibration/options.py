"""The words of `calibration:`, for every stage that has a model read something."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from convert.calibration import mix
from convert.calibration.rows import Description
from convert.options import Options, RecipePath


class Calibration(Options):
    """What the model reads while its activations are measured: files of yours, or a mix of our own."""

    text: RecipePath | None = Field(None, description="UTF-8 text like what the model will be used for")
    chat: RecipePath | None = Field(
        None, description='JSON lines of {"messages": [...]}, rendered with the model\'s own template'
    )
    screens: RecipePath | None = Field(
        None, description="JSON lines of image, instruction and target, for a model with vision"
    )
    samples: int = Field(
        128, ge=1, le=1 << 16, description="rows in all, evenly from each of the files, or by the shares of our mix"
    )
    length: int = Field(512, ge=16, le=32768, description="tokens a row; a screenshot is never cut")
    seed: int = Field(0, ge=0, description="which rows are drawn")

    def __str__(self) -> str:
        """As in the recipe: the words it says, and nothing it leaves out."""
        said = {name: value for name, value in self if name in self.model_fields_set}
        return "{" + ", ".join(f"{name}: {value}" for name, value in said.items()) + "}"

    def __repr__(self) -> str:
        """The same, where a list of options shows its default."""
        return str(self)

    @property
    def files(self) -> dict[str, Path]:
        """Word -> file, of those that are named."""
        named = {"text": self.text, "chat": self.chat, "screens": self.screens}
        return {word: path for word, path in named.items() if path is not None}

    @property
    def description(self) -> Description:
        """The same for whoever makes rows of it, by whole paths."""
        named = {word: str(path.absolute()) for word, path in self.files.items()}
        return Description(**named, samples=self.samples, length=self.length, seed=self.seed)

    @property
    def versions(self) -> Mapping[str, str]:
        """What a key has to hold beside the files: what the default mix says, where that is read."""
        return {} if self.files else {mix.NAME: mix.sha256()}
