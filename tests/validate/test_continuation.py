"""How long two sides write the same."""

from __future__ import annotations

import pytest

from validate.continuation import PROMPT_TOKENS, continued, prompt_of


@pytest.mark.parametrize(
    ("reference", "candidate", "equal", "tokens"),
    [
        ([1, 2, 3], [1, 2, 3], 3, 3),
        ([1, 2, 3], [1, 9, 3], 1, 3),
        ([1, 2, 3], [9, 2, 3], 0, 3),
        ([1, 2], [1, 2, 3], 2, 3),  # the reference ended its text, the candidate did not
        ([1, 2, 3], [1, 2], 2, 3),
        ([1], [], 0, 1),
    ],
)
def test_the_common_beginning(reference: list[int], candidate: list[int], equal: int, tokens: int) -> None:
    got = continued(7, reference, candidate)
    assert (got.equal, got.tokens, got.prompt_tokens) == (equal, tokens, 7)
    assert got.share == equal / tokens


def test_the_prompt_is_the_beginning_of_the_text() -> None:
    assert prompt_of([list(range(100)), [7]]) == list(range(PROMPT_TOKENS))
    assert prompt_of([[1, 2, 3, 4]]) == [1, 2]
    assert prompt_of([[1]]) == [1]
