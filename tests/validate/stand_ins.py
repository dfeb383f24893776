"""Sessions that tests make up: each overrides what it is asked for, and answers nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from validate.errors import Unsupported
from validate.json_types import Message
from validate.runtimes.base import Identity, ReferenceSession, Session


class SpeaksNothing(Session):
    """A session without a vocabulary."""

    def identity(self) -> Identity:
        raise Unsupported("nobody asks")

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        raise Unsupported("nobody asks")

    def detokenize(self, tokens: Sequence[int]) -> str:
        raise Unsupported("nobody asks")

    def pieces(self) -> list[str]:
        raise Unsupported("nobody asks")

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        raise Unsupported("nobody asks")


class SaysNothing(SpeaksNothing, ReferenceSession):
    """The same, as a reference."""

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] | None,
        generation_prompt: bool,
        templates: Mapping[str, str] | None = None,
    ) -> str:
        raise Unsupported("nobody asks")


def partly(**answers: Any) -> Any:
    """A session of these methods; a question that is not among them is a test that should know better."""
    made = type("Partly", (SaysNothing,), {name: staticmethod(answer) for name, answer in answers.items()})
    return made()
