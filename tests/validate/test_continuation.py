"""How long two sides write the same."""

from __future__ import annotations

import pytest

from validate.continuation import PROMPT_TOKENS, PROMPTS, Greedy, compare_continuations, greedy_prompts


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
    got = compare_continuations([[5] * 7], [reference], [candidate])
    assert got == Greedy(prompts=1, prompt_tokens=7, tokens=tokens, equal=equal, lengths=(equal,))
    assert got.metrics == {"greedy_equal": equal / tokens}


def test_all_prompts_count() -> None:
    got = compare_continuations([[1], [2, 3]], [[1, 2, 3], [4, 5]], [[1, 2, 9], [7, 5]])
    assert got == Greedy(prompts=2, prompt_tokens=3, tokens=5, equal=2, lengths=(2, 0))
    assert got.metrics == {"greedy_equal": 0.4}
    with pytest.raises(ValueError, match="zip"):
        compare_continuations([[1]], [[1]], [])


def test_where_nobody_writes_nothing_is_measured() -> None:
    assert (
        compare_continuations([[1]], [[]], [[]]).metrics == {}
    )  # no number, which a limit fails and which alone does not
    assert compare_continuations([[1]], [[2]], [[]]).metrics == {"greedy_equal": 0.0}


def test_a_prompt_is_the_beginning_of_a_window() -> None:
    assert greedy_prompts([list(range(100)), [7]]) == [list(range(PROMPT_TOKENS)), [7]]
    assert greedy_prompts([[1, 2, 3, 4]]) == [[1, 2]]


def test_prompts_of_short_windows_have_lengths_in_common() -> None:
    lengths = [len(prompt) for prompt in greedy_prompts([[0] * n for n in (40, 46, 70, 30)])]
    assert lengths == [16, 16, 32, 15]


def test_prompts_come_from_all_sets_and_from_all_over_a_set() -> None:
    windows = [[i, i] for i in range(20)]
    assert greedy_prompts(windows, count=8) == [[i] for i in (0, 2, 5, 7, 10, 12, 15, 17)]
    assert greedy_prompts(windows) == [[i] for i in (0, 5, 10, 15)]
    assert len(greedy_prompts(windows)) == PROMPTS
    sets = ["prose"] * 17 + ["code"] * 2 + ["tools"]
    got = [prompt[0] for prompt in greedy_prompts(windows, sets, 8)]
    assert got == [0, 3, 6, 10, 13, 17, 18, 19]
    assert greedy_prompts(windows[:3], ["a", "b", "c"]) == [[0], [1], [2]]
    many = greedy_prompts(windows, [str(i) for i in range(20)], 8)
    assert [prompt[0] for prompt in many] == [0, 2, 5, 7, 10, 12, 15, 17]
