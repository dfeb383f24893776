"""Which answers changed, and what the exact test says of it; measured on made sessions and on tiny models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convert.progress import Silent
from tests.validate.test_choices import Letters, question
from tests.validate.test_measures import InPlace
from validate import compare, flips
from validate.choices import Question
from validate.flips import mcnemar
from validate.measurement import Candidate, Measurement, Questions, Settings
from validate.reference import Reference


@pytest.mark.parametrize(
    ("one_way", "other_way", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 0.0625),
        (10, 2, 158 / 4096),  # 2 * (1 + 12 + 66) / 2^12
        (2, 10, 158 / 4096),
        (6, 6, 1.0),
        (3000, 3000, 1.0),
        (3200, 2800, 2.59e-7),  # the normal's, with correction for continuity
    ],
)
def test_mcnemar_is_the_binomial_test_of_a_fair_coin(one_way: int, other_way: int, p: float) -> None:
    assert mcnemar(one_way, other_way) == pytest.approx(p, rel=0.02)


def made(*rights: int) -> list[Question]:
    return [
        Question("odd" if i % 2 else "even", f"item {i}", [" a", " bbbb", " c"], right, [[1, 2]] * 3, [1] * 3)
        for i, right in enumerate(rights)
    ]


def picks(*places: int) -> list[list[float]]:
    return [[-1.0 if i == place else -3.0 for i in range(3)] for place in places]


def test_flips_go_each_way_and_those_among_wrong_answers_are_apart() -> None:
    questions = made(0, 0, 0, 0, 0, 0)
    found, metrics, draws = flips.flips(questions, picks(0, 0, 1, 1, 1, 0), picks(0, 1, 0, 2, 1, 2))
    whole = found.all
    assert (whole.right_reference, whole.right) == (3, 2)
    assert (whole.right_to_wrong, whole.wrong_to_right, whole.wrong_to_wrong) == (2, 1, 1)
    assert metrics["flips"] == 0.5
    assert metrics["choice_drop"] == pytest.approx(1 / 6)
    assert metrics["mcnemar_p"] == 1.0
    assert [c.shown for c in found.changes] == ["item 1", "item 5", "item 2", "item 3"]  # the lost ones, then the rest
    assert {(s.name, s.items) for s in found.sets} == {("even", 3), ("odd", 3)}
    assert draws["choice_drop"].min() < 0 < draws["choice_drop"].max()
    assert flips.flips(questions[::2], picks(0, 0, 0), picks(0, 0, 0))[0].sets == ()


def test_by_length_is_another_answer() -> None:
    """Of -3 for ` bbbb` and -1 for ` a`, the longer has more a character; the space before it counts for nothing."""
    found, metrics, _ = flips.flips(made(1), [[-1.0, -3.0, -9.0]], [[-1.0, -3.0, -9.0]])
    assert (found.all.right, found.normalized.right) == (0, 1)
    assert metrics["choice_accuracy_norm"] == metrics["choice_accuracy_norm_reference"] == 1.0


def test_intervals_hold_a_share_of_no_variance() -> None:
    _, _, draws = flips.flips(made(*[0] * 20), picks(*[0] * 20), picks(*[0] * 20))
    assert np.percentile(draws["choice_accuracy"], 2.5) == pytest.approx(0.884, abs=0.02)  # Jeffreys, 20 of 20


WINDOW = [ord(c) for c in "some text of more than one window"]


def measured(session: Letters, asked: list[Question]) -> tuple[Measurement, Letters]:
    source = Letters()
    candidate = Candidate(Path("made.bin"), None, InPlace(session), 1)
    (found,) = compare.measure(
        Reference(source, None, "", 1 << 20), [candidate], Questions([WINDOW], choices=asked), Settings(1), Silent()
    )
    return found, source


def test_the_source_against_itself_flips_nothing() -> None:
    asked = [question(Letters(), f"q{i}", " c", " d", " e") for i in range(12)]
    found, _ = measured(Letters(), asked)
    assert found.choices is not None
    assert found.metrics["flips"] == 0.0
    assert found.choices.changes == []
    assert found.metrics["choice_accuracy"] == found.metrics["choice_accuracy_reference"]
    low, high = found.intervals["choice_accuracy"]
    assert low <= found.metrics["choice_accuracy"] <= high


def test_another_model_flips_and_no_items_are_no_measure() -> None:
    other = Letters()
    other._table = np.roll(other._table, 40, axis=1)
    asked = [question(Letters(), chr(97 + i), *(f"{c}{d}" for c in "xyz" for d in "uvw")) for i in range(20)]
    found, _ = measured(other, asked)
    assert found.choices is not None
    assert len(found.choices.changes) == flips.EXAMPLES
    bare, source = measured(Letters(), [])
    assert bare.choices is None
    assert "flips" not in bare.metrics
    assert all(ids == WINDOW or len(ids) < len(WINDOW) for ids in source.read)


def test_flips_that_were_kept_are_read_back_whole(tmp_path: Path) -> None:
    other = Letters()
    other._table = np.roll(other._table, 40, axis=1)
    asked = [question(Letters(), chr(97 + i), " x", " y", " z") for i in range(20)]
    candidate = Candidate(Path("made.bin"), None, InPlace(other), 1, key="a")
    source = Reference(Letters(), None, "", 1 << 20)
    settings = Settings(1, kept=tmp_path)
    once, again = (
        compare.measure(source, [candidate], Questions([WINDOW], choices=asked), settings, Silent())[0]
        for _ in range(2)
    )
    assert len(list(tmp_path.glob("*.json"))) == 1
    assert once.choices is not None
    assert again.choices is not None
    assert again.choices.all == once.choices.all
    assert list(again.choices.changes) == list(once.choices.changes)
    assert again.draws["choice_drop"].tolist() == once.draws["choice_drop"].tolist()
    assert again.intervals["flips"] == pytest.approx(once.intervals["flips"])
