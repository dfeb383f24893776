"""What the reference would write, found by reading drafts, is what it would have written by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from validate import drafts

END = 0
PROMPTS = [[3, 1, 4], [1, 5], [9]]


class Writer:
    """Chooses a token by the three before it, and counts how often it is asked."""

    def __init__(self, vocab: int = 12) -> None:
        self.vocab, self.passes = vocab, 0

    def next(self, tokens: Sequence[int]) -> int:
        return int(np.random.default_rng([t + 1 for t in tokens[-3:]]).integers(self.vocab))

    def by_itself(self, prompt: Sequence[int], count: int) -> list[int]:
        text: list[int] = []
        while len(text) < count and (not text or text[-1] != END):
            text.append(self.next([*prompt, *text]))
        return text

    def choose(self, rows: Sequence[int], asked: Sequence[Sequence[int]]) -> list[list[int]]:
        self.passes += 1
        return [
            [self.next([*PROMPTS[row], *draft[:i]]) for i in range(len(draft) + 1)]
            for row, draft in zip(rows, asked, strict=True)
        ]


@pytest.mark.parametrize("seed", range(60))
def test_whatever_the_drafts_are_the_text_is_the_same(seed: int) -> None:
    """Drafts of every kind: made up, the writer's own with tokens exchanged, lost or put in, cut short, none."""
    draw, writer = np.random.default_rng(seed), Writer()
    count = int(draw.integers(1, 24))
    wanted = [writer.by_itself(prompt, count) for prompt in PROMPTS]
    by_prompt = [[_spoilt(text, draw) for _ in range(draw.integers(4))] for text in wanted]
    assert drafts.texts(writer.choose, by_prompt, count, {END}) == wanted
    assert writer.passes <= count


def _spoilt(text: list[int], draw: np.random.Generator) -> list[int]:
    text, place = list(text), int(draw.integers(len(text)))
    match draw.integers(5):
        case 0:
            return draw.integers(0, 12, draw.integers(30)).tolist()  # type: ignore[no-any-return]
        case 1:
            text[place] = int(draw.integers(12))
        case 2:
            del text[place]
        case 3:
            text.insert(place, 1)
        case 4:
            del text[place:]
    return text


@pytest.mark.parametrize("count", [1, 2, 24])
def test_who_wrote_the_same_costs_one_pass(count: int) -> None:
    writer = Writer()
    same = [[writer.by_itself(prompt, count)] for prompt in PROMPTS]
    assert drafts.texts(writer.choose, same, count, {END}) == [row[0] for row in same]
    assert writer.passes == 1


def test_each_disagreement_costs_one_pass_more() -> None:
    writer = Writer(vocab=1 << 20)
    wanted = [writer.by_itself(prompt, 24) for prompt in PROMPTS]
    others = [[[*text[:9], 1, *text[10:]]] for text in wanted]
    assert drafts.texts(writer.choose, others, 24, {END}) == wanted
    assert writer.passes == 2
