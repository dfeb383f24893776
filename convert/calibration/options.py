"""The words of `calibration:`, for every stage that has a model read something."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from convert.calibration import mix
from convert.calibration.rows import Description
from convert.errors import InputError
from convert.json_types import JsonObject
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

    @property
    def reads(self) -> list[Path]:
        """The files that there are, and the screenshots they name."""
        from validate import vision

        files = list(self.files.values())
        if self.screens is not None and self.screens.is_file():
            with contextlib.suppress(ValueError, OSError):  # check_files says what is wrong with it
                files += [task.image for task in vision.read_clicks(self.screens)]
        return [path for path in dict.fromkeys(files) if path.is_file()]

    @property
    def source_name(self) -> str:
        """What is read, in a word."""
        return ", ".join(path.name for path in self.files.values()) or f"{mix.NAME} {mix.sha256()[:8]}"


def check_files(where: str, calibration: Calibration) -> None:
    """Raise InputError for a file that is missing, or is not what it is named as."""
    from convert.calibration.rows import MAX_TEXT_BYTES, read_conversations
    from convert.source.companions import read_text
    from validate import vision

    for path in calibration.files.values():
        if not path.is_file():
            raise InputError(where, f"no file {path}", "", "paths are relative to the recipe")
    if calibration.text and not read_text(calibration.text, MAX_TEXT_BYTES).strip():
        raise InputError(str(calibration.text), "is empty", "a text")
    if calibration.chat and not read_conversations(calibration.chat):
        raise InputError(str(calibration.chat), "is empty", "conversations")
    if calibration.screens:
        try:
            vision.read_clicks(calibration.screens)
        except ValueError as error:
            raise InputError(where, str(error)) from None


def check_fit(where: str, calibration: Calibration, config: JsonObject, has_vision: bool) -> None:
    """Raise InputError for rows that a model with this config cannot take."""
    if calibration.screens and not has_vision:
        raise InputError(where, "calibration: screens for a model that takes no images", "text or chat")
    text = config.get("text_config")
    longest = (text if isinstance(text, dict) else config).get("max_position_embeddings")
    if isinstance(longest, int) and calibration.length > longest:
        raise InputError(where, f"length: {calibration.length}", f"at most the model's {longest} positions")
