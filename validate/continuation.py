"""What a model writes by itself: how long two runtimes write the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PROMPT_TOKENS = 32


@dataclass(frozen=True)
class Continuation:
    """Greedy tokens of both sides after one prompt. After the first difference nothing can be compared."""

    prompt_tokens: int
    tokens: int  # of the longer side: fewer than asked for where the model ends its text
    equal: int  # leading tokens that are the same

    @property
    def share(self) -> float:
        return self.equal / self.tokens


def prompt_of(windows: Sequence[Sequence[int]]) -> list[int]:
    """The first tokens of the text, BOS included where the model has one; at most half of the first window."""
    first = windows[0]
    return list(first[: min(PROMPT_TOKENS, max(1, len(first) // 2))])


def continued(prompt_tokens: int, reference: Sequence[int], candidate: Sequence[int]) -> Continuation:
    """The length of the common beginning. Both sides give at least one token."""
    pairs = enumerate(zip(reference, candidate, strict=False))
    shorter = min(len(reference), len(candidate))
    equal = next((i for i, (a, b) in pairs if a != b), shorter)
    return Continuation(prompt_tokens, max(len(reference), len(candidate)), equal)
