"""What the reference would write, found by reading: what others wrote are drafts of it, and one pass reads them all.

A pass says what the reference would choose behind every token of a draft. Up to the first choice that is another one
the draft is its own text; with that choice at its end the text is known one token further, and is the next draft's
beginning. So the reference, whose every pass costs as much as its weights take to be read, makes as many passes as
there are disagreements and not as many as there are tokens (speculative decoding; Leviathan et al. 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

Tokens = Sequence[int]
Choose = Callable[[Sequence[int], Sequence[Tokens]], Sequence[Tokens]]
"""Of some prompts, by number, and a draft behind each: the choices behind the prompt and behind each draft token."""


def texts(
    choose: Choose,
    drafts: Sequence[Sequence[Tokens]],
    count: int,
    ends: Collection[int],
    on_known: Callable[[int], None] = lambda tokens: None,
) -> list[list[int]]:
    """What the reference writes greedily after each prompt, at most `count` tokens, an end as the last one.

    `drafts` are what others wrote after each prompt, the likeliest to be right first; none is no error, and costs a
    pass a token. `on_known` hears after each pass how many tokens more are known; those behind an end count as known.
    """
    known: list[list[int]] = [[] for _ in drafts]

    def reached(unfinished: Sequence[int]) -> int:
        return sum(len(known[i]) for i in unfinished) + count * (len(drafts) - len(unfinished))

    unfinished = list(range(len(drafts)))
    while unfinished:
        asked = [_draft(known[i], drafts[i], count) for i in unfinished]
        before = reached(unfinished)
        for i, draft, choices in zip(unfinished, asked, choose(unfinished, asked), strict=True):
            known[i] = _accepted(draft, choices, count, ends)
        unfinished = [i for i in unfinished if len(known[i]) < count and not (known[i] and known[i][-1] in ends)]
        on_known(reached(unfinished) - before)
    return known


def _draft(known: list[int], drafts: Sequence[Tokens], count: int) -> list[int]:
    """The known text and how it may go on: as who wrote it went on, else as somebody did behind the same tokens."""
    at = len(known)
    same = next((d for d in drafts if len(d) > at and list(d[:at]) == known), None)
    if same is None:
        behind = max((_behind(known, d) for d in drafts), key=lambda found: found[0], default=(0, []))
        return (known + behind[1])[: count - 1]
    return list(same[: count - 1])


def _behind(known: list[int], draft: Tokens) -> tuple[int, list[int]]:
    """The longest end of the known text (at most 8 tokens) that the draft has too, and what stands behind it there."""
    if not known:
        return 0, list(draft)
    best, place = 0, None
    for i, token in enumerate(draft):
        if token == known[-1]:
            length = next((n for n in range(8) if n > min(i, len(known) - 1) or draft[i - n] != known[-1 - n]), 8)
            if length >= best:
                best, place = length, i
    return (0, list(draft[len(known) :])) if place is None else (best, list(draft[place + 1 :]))


def _accepted(draft: list[int], choices: Tokens, count: int, ends: Collection[int]) -> list[int]:
    """The draft as far as the reference agrees, and its own choice behind it."""
    agreed = next((i for i, token in enumerate(draft) if token != choices[i]), len(draft))
    text = [*draft[:agreed], int(choices[agreed])]
    stop = next((i for i, token in enumerate(text) if token in ends), len(text))
    return text[: min(stop + 1, count)]
