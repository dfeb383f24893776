"""The worst positions: which they are, and what is shown of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from validate import compressed_logits, drift
from validate.worst import Worst

VOCAB = 60
PIECES = [f"Ġw{i}" for i in range(VOCAB)]


def detokenize(ids: Sequence[int]) -> str:
    return "".join(f" w{i}" for i in ids)


def look(worst: Worst, number: int, kl_at: dict[int, float], length: int = 100, room: int = 1 << 40) -> list[int]:
    """Show a window whose candidate leaves the reference by more, the larger the number at a position."""
    rng = np.random.default_rng(number)
    reference = rng.standard_normal((length, VOCAB)).astype(np.float32)
    tokens = rng.integers(0, VOCAB, length).tolist()
    candidate = reference.copy()
    for position, by in kl_at.items():
        candidate[position, reference[position].argmax()] -= by
    kept = compressed_logits.compress(reference, tokens, room)
    worst.add("prose", number, tokens, kept, candidate, drift.compare(kept, candidate, tokens))
    return tokens


@pytest.mark.parametrize("room", [1, 1 << 40])
def test_a_position_is_shown_with_its_text_and_what_both_sides_would_write(room: int) -> None:
    worst = Worst()
    tokens = look(worst, 0, {70: 5.0}, room=room)
    (row,) = worst.rows(detokenize, PIECES.__getitem__)
    reference = np.random.default_rng(0).standard_normal((100, VOCAB)).astype(np.float32)[70].astype(np.float64)
    candidate = reference.copy()
    candidate[reference.argmax()] -= 5
    assert (row.set, row.window, row.position) == ("prose", 0, 70)
    assert row.before == detokenize(tokens[:71])[-80:]
    assert row.next == f" w{tokens[71]}"
    for logits, guesses in ((reference, row.reference), (candidate, row.candidate)):
        p = np.exp(logits) / np.exp(logits).sum()
        best = np.argsort(-p)[:3]
        assert [g.text for g in guesses] == [f" w{i}" for i in best]
        np.testing.assert_allclose([g.probability for g in guesses], p[best], rtol=1e-6)


def test_the_worst_come_first_and_neighbours_of_one_spot_do_not_fill_the_list() -> None:
    worst = Worst()
    look(worst, 0, {position: 4.0 + position / 100 for position in range(40, 60)})
    look(worst, 1, {0: 3.0, 20: 3.1, 40: 3.2, 60: 3.3, 99: 3.4})
    rows = worst.rows(detokenize, PIECES.__getitem__)
    assert [r.kl for r in rows] == sorted((r.kl for r in rows), reverse=True)
    places = [[r.position for r in rows if r.window == number] for number in (0, 1)]
    assert all(1 <= len(of_window) <= 3 for of_window in places)
    for of_window in places:
        assert min((abs(a - b) for a in of_window for b in of_window if a != b), default=99) >= 16


def test_ten_of_many_windows_whatever_their_order() -> None:
    rng = np.random.default_rng(0)
    found = []
    for order in (range(30), rng.permutation(30)):
        worst = Worst()
        for number in order:
            look(worst, int(number), {10: 1 + number / 10, 50: 2.0 + number / 10})
        found.append({(r.window, r.position) for r in worst.rows(detokenize, PIECES.__getitem__)})
    assert len(found[0]) == 10
    assert found[0] == found[1]


def test_where_nothing_drifts_nothing_is_shown() -> None:
    worst = Worst()
    look(worst, 0, {})
    assert worst.rows(detokenize, PIECES.__getitem__) == []


def test_the_last_position_has_no_next_token() -> None:
    worst = Worst()
    look(worst, 0, {99: 5.0})
    (row,) = worst.rows(detokenize, PIECES.__getitem__)
    assert (row.position, row.next) == (99, "")
