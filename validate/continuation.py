"""What a model writes by itself: how long two runtimes write the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

PROMPT_TOKENS = 32
PROMPTS = 4
ALIKE = 16  # prompts are cut to a multiple of so many tokens: those of one length are written in one batch

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Greedy:
    """Greedy tokens of both sides after some prompts. After a first difference nothing can be compared."""

    prompts: int
    prompt_tokens: int  # of all prompts
    tokens: int  # of the longer side of each: fewer than asked for where the model ends its text
    equal: int  # leading tokens that are the same
    lengths: tuple[int, ...]  # of each prompt, the leading tokens that are the same

    @property
    def metrics(self) -> Mapping[str, float]:
        """greedy_equal; nothing where neither side wrote anything."""
        return {"greedy_equal": self.equal / self.tokens} if self.tokens else {}


def greedy_prompts(
    windows: Sequence[Sequence[int]], sets: Sequence[str] | None = None, count: int = PROMPTS
) -> list[list[int]]:
    """The first tokens of at most `count` windows, at most half of each; of every input set what there is room for.

    `sets` names the input set of each window; all are of one set when it is left out.
    """
    groups: dict[str, list[Sequence[int]]] = {}
    for window, name in zip(windows, sets or [""] * len(windows), strict=True):
        groups.setdefault(name, []).append(window)
    chosen = _spread(list(groups.values()), count)
    shares = _shares([len(group) for group in chosen], count)
    return [
        list(window[: _length(len(window))])
        for group, share in zip(chosen, shares, strict=True)
        for window in _spread(group, share)
    ]


def _length(tokens: int) -> int:
    """Of a prompt out of a window of so many tokens."""
    half = min(PROMPT_TOKENS, max(1, tokens // 2))
    return half // ALIKE * ALIKE or half


def compare_continuations(
    prompts: Sequence[Sequence[int]], reference: Sequence[Sequence[int]], candidate: Sequence[Sequence[int]]
) -> Greedy:
    """The common beginnings of what both sides wrote after each prompt."""
    pairs = list(zip(reference, candidate, strict=True))
    lengths = tuple(_common(ours, theirs) for ours, theirs in pairs)
    return Greedy(
        prompts=len(prompts),
        prompt_tokens=sum(map(len, prompts)),
        tokens=sum(max(len(ours), len(theirs)) for ours, theirs in pairs),
        equal=sum(lengths),
        lengths=lengths,
    )


def _common(reference: Sequence[int], candidate: Sequence[int]) -> int:
    pairs = enumerate(zip(reference, candidate, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(reference), len(candidate)))


def _spread(items: Sequence[_Item], count: int) -> list[_Item]:
    """At most `count` of the items, evenly apart, the first among them."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def _shares(sizes: Sequence[int], count: int) -> list[int]:
    """How many to take of groups of these sizes so that none has two more than another that has some left."""
    shares = [0] * len(sizes)
    while sum(shares) < min(count, sum(sizes)):
        open_groups = [i for i, size in enumerate(sizes) if shares[i] < size]
        for i in open_groups[: count - sum(shares)]:
            shares[i] += 1
    return shares
