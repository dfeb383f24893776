"""Multiple-choice items: the shapes that data sets and lm-eval write, and scores that are lm-eval's."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.validate.stand_ins import SaysNothing, partly
from validate import choices
from validate.choices import Question, read_items, scores, tokenized
from validate.logits import NotComparable
from validate.reference import Reference
from validate.runtimes import Identity

VOCAB = 128
ARC = {"question": "Which is wet?", "choices": {"text": ["fire", "rain"], "label": ["A", "B"]}, "answerKey": "B"}
LOGGED = {
    "doc_id": 0,
    "doc": {"question": "Which is wet?"},
    "target": "1",
    "arguments": {
        "gen_args_0": {"arg_0": "Question: wet?\nAnswer:", "arg_1": " fire"},
        "gen_args_1": {"arg_0": "Question: wet?\nAnswer:", "arg_1": " rain"},
    },
}


def written(tmp_path: Path, *lines: Any) -> Path:
    path = tmp_path / "items.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("line", "context", "answers", "right"),
    [
        ({"question": "2 + 2?", "choices": ["3", "4"], "answer": 1}, "Question: 2 + 2?\nAnswer:", [" 3", " 4"], 1),
        ({"question": "Q", "choices": ["x", "y"], "answer": "B"}, "Question: Q\nAnswer:", [" x", " y"], 1),
        ({"query": "Sky is", "choices": ["blue", "red"], "gold": 0}, "Sky is", [" blue", " red"], 0),
        ({"query": "q", "choices": ["x", "y"], "gold": [1]}, "q", [" x", " y"], 1),
        ({"ctx": "He", "endings": ["sat.", "ran."], "label": "1"}, "He", [" sat.", " ran."], 1),
        ({"prompt": "a.", "options": ["b", "c"], "target": "c", "target_delimiter": ""}, "a.", ["b", "c"], 1),
        (ARC, "Question: Which is wet?\nAnswer:", [" fire", " rain"], 1),
        (ARC | {"choices": {"text": ["f", "r"], "label": ["1", "2"]}, "answerKey": "1"}, None, [" f", " r"], 0),
        (LOGGED, "Question: wet?\nAnswer:", [" fire", " rain"], 1),
        (LOGGED | {"arguments": [["a", " b"], ["a", " c"]], "target": 0}, "a", [" b", " c"], 0),
        (LOGGED | {"arguments": [["a", " b"], ["a", " c"]], "target": "c"}, "a", [" b", " c"], 1),
    ],
)
def test_the_shapes_that_items_have(
    tmp_path: Path, line: dict[str, Any], context: str | None, answers: list[str], right: int
) -> None:
    (item,) = read_items(written(tmp_path, "", line)).items
    assert context is None or set(item.contexts) == {context}
    assert (item.choices, item.right) == (answers, right)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", r"items.jsonl:2: not JSON"),
        ("[" * 100_000, r"items.jsonl:2: (nested too deep|not JSON)"),
        ([1], r"items.jsonl:2: list; wanted an item as an object"),
        ({"choices": ["a", "b"], "answer": 0}, r":2: no text under question, query, .*; it has choices, answer"),
        ({"question": "q", "answer": 0}, r":2: no list of texts under choices or endings or options"),
        (
            {"question": "q", "choices": ["a", "b"]},
            r":2: nothing under answer, gold, .*; wanted the number or the letter",
        ),
        ({"question": "q", "choices": ["a", "b"], "answer": 2}, r"'2', which is none of its 2; numbers count from 0"),
        ({"question": "q", "choices": ["a"], "answer": 0}, r":2: 1 choices; wanted two or more"),
        ({"arguments": [["q", {"until": ["\n"]}]], "target": "4"}, r"only samples of multiple-choice tasks are taken"),
    ],
)
def test_what_is_no_item_is_refused_with_its_line(tmp_path: Path, line: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_items(written(tmp_path, LOGGED, line))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_items(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="holds no item"):
        read_items(written(tmp_path, ""))
    (tmp_path / "items.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not UTF-8"):
        read_items(tmp_path / "items.jsonl")
    assert len(read_items(written(tmp_path, LOGGED, "never read"), limit=1).items) == 1


def test_ours_are_short_and_all_different_with_the_right_one_anywhere() -> None:
    items = choices.ours().items
    assert 60 <= len(items) <= 100
    assert len({item.contexts[0] for item in items}) == len(items)
    assert all(len(set(item.choices)) == len(item.choices) == 4 for item in items)
    assert min(Counter(item.right for item in items).values()) >= 15
    assert max(len(item.contexts[0]) for item in items) < 120


# ---- tokens and scores


class Letters(SaysNothing):
    """A character is a token, and `ab` one of its own; logits of a token are those of what stands before it."""

    def __init__(self, bos: bool = False) -> None:
        self.read: list[list[int]] = []
        self._bos = bos
        self._table = np.random.default_rng(1).normal(0, 3, (VOCAB, VOCAB)).astype(np.float32)

    def identity(self) -> Identity:
        return Identity(VOCAB, bos=1, eos=2, adds_bos=self._bos)

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        return [ord(c) % VOCAB for c in text.replace("ab", "\x03")]

    def pieces(self) -> list[str]:
        return [chr(i) for i in range(VOCAB)]

    def detokenize(self, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))

    def generate(self, tokens: Sequence[int], count: int) -> list[int]:
        return [7] * count

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        self.read.append(list(tokens))
        return np.asarray(self._table[list(tokens)])


def question(session: Letters, context: str, *answers: str, longest: int = 99) -> Question:
    one = choices.ItemSet("set", "", [choices.Item([context] * len(answers), answers, 0)])
    (found,), _ = tokenized([one], session, longest)
    return found


def by_hand(session: Letters, before: str, choice: str) -> float:
    """The sum, one token after the other in float64."""
    total, last = 0.0, ord(before)
    for character in choice:
        row = session._table[last].astype(np.float64)
        total += row[ord(character)] - np.log(np.exp(row).sum())
        last = ord(character)
    return total


def test_a_score_is_the_sum_over_the_choices_own_tokens() -> None:
    session = Letters()
    asked = question(session, "q:", " cd", " x", " xyz")
    assert asked.own == [3, 2, 4]
    assert asked.lengths == [2, 1, 3]
    (found,) = scores(session, [asked])
    assert found == pytest.approx([by_hand(session, ":", choice) for choice in (" cd", " x", " xyz")], abs=1e-9)


def test_one_reading_does_for_all_choices_that_it_begins_with() -> None:
    session = Letters()
    list(scores(session, [question(session, "q", "c", "d", "e", "f")]))
    assert session.read == [[ord("q")]]
    session.read.clear()
    list(scores(session, [question(session, "q", "c", "cd", "cde", "xy")]))
    assert session.read == [[ord(c) for c in "qcd"], [ord(c) for c in "qx"]]


def test_the_lead_goes_before_a_context_and_is_never_scored() -> None:
    session = Letters(bos=True)
    asked = question(session, "q", "c", "d")
    assert asked.tokens[0] == [1, ord("q"), ord("c")]
    assert question(Letters(), "", "c", "d").tokens[0] == [1, ord("c")]  # something has to stand before it


def test_spaces_at_a_contexts_end_are_the_choices_and_a_merged_choice_still_has_a_token() -> None:
    assert question(Letters(), "q  ", "c", "d").own == [3, 3]
    merged = question(Letters(), "qa", "b", "c")
    assert merged.own == [1, 1]
    assert merged.tokens[0] == [ord("q"), ord("a"), ord("b")]


def test_what_is_too_long_loses_its_beginning_and_is_counted() -> None:
    session = Letters()
    one = choices.ItemSet("set", "", [choices.Item(["long context"] * 2, [" c", " d"], 0)])
    (asked,), cut = tokenized([one], session, 5)
    assert cut == 1
    assert [len(ids) for ids in asked.tokens] == [5, 5]
    assert next(scores(session, [asked]))[0] == pytest.approx(by_hand(session, "t", " c"), abs=1e-9)
    (asked,), _ = tokenized([one], session, 2)
    assert asked.own == [1, 1]  # a score needs a token before it


def test_logits_that_are_no_numbers_are_refused() -> None:
    broken = partly(logits=lambda tokens: np.full((len(tokens), VOCAB), np.nan, np.float32))
    with pytest.raises(NotComparable, match="not finite"):
        list(scores(broken, [question(Letters(), "q", "c", "d")]))


# ---- kept


def test_the_sources_scores_are_asked_once_and_for_other_items_again(tmp_path: Path) -> None:
    session, told = Letters(), list[int]()
    asked = [question(session, f"q{i}", " c", " d") for i in range(70)]
    first = Reference(session, tmp_path, "key", 1 << 20).choice_scores(asked, told.append)
    assert sum(told) == len(first) == 70
    assert first == list(scores(session, asked))
    reads = len(session.read)
    assert Reference(session, tmp_path, "key", 1 << 20).choice_scores(asked, told.append) == first
    assert len(session.read) == reads
    Reference(session, tmp_path, "key", 1 << 20).choice_scores(asked[1:65], told.append)
    assert len(session.read) > reads


@pytest.mark.parametrize("broken", ["[[1.0]]", "{}", "[", "[[1.0, NaN]]", '[["1", 2.0]]'])
def test_kept_scores_that_are_none_are_asked_for_again(tmp_path: Path, broken: str) -> None:
    session = Letters()
    asked = [question(session, "q", " c", " d")]
    first = Reference(session, tmp_path, "key", 1 << 20).choice_scores(asked, lambda _: None)
    (file,) = tmp_path.iterdir()
    file.write_text(broken)
    assert Reference(session, tmp_path, "key", 1 << 20).choice_scores(asked, lambda _: None) == first
