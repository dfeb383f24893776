"""The choice of least cost in a budget: against trying everything, on small tables of every sort."""

from __future__ import annotations

import itertools
import random

import pytest

from quantize.budget import Cost, Table, TooSmall, best, totalled


def table_of(draw: random.Random, tensors: int, choices: int) -> dict[str, dict[str, Cost]]:
    """Sizes as those of block types are, costs that fall by about four a bit, with the odd one out."""
    made: dict[str, dict[str, Cost]] = {}
    for number in range(tensors):
        values, scale = draw.choice([64, 256, 1000, 4096]), 10 ** draw.uniform(-4, 0)
        bits = [2.0625 + k * draw.choice([0.5, 1, 1.0625]) for k in range(choices)]
        made[f"t{number}"] = {
            f"k{k}": Cost(int(values * b / 8) + 1, scale * 4**-b * draw.uniform(0.5, 2)) for k, b in enumerate(bits)
        }
    return made


def by_trying(table: Table, budget: int, together: list[tuple[str, ...]]) -> float:
    """The least cost of all mixes that fit."""
    found = []
    for mix in itertools.product(*table.values()):
        chosen = dict(zip(table, mix, strict=True))
        if all(len({chosen[name] for name in names}) == 1 for names in together):
            one = totalled(table, chosen)
            if one.bytes <= budget:
                found.append(one.loss)
    return min(found)


@pytest.mark.parametrize("seed", range(60))
def test_what_trying_everything_finds_and_never_past_the_budget(seed: int) -> None:
    draw = random.Random(seed)
    table = table_of(draw, draw.randint(1, 6), draw.randint(1, 4))
    together = [("t0", "t1")] if len(table) > 2 and seed % 3 == 0 else []
    sizes = [sorted(cost.bytes for cost in kinds.values()) for kinds in table.values()]
    least, most = sum(size[0] for size in sizes), sum(size[-1] for size in sizes)
    if together:
        pair = [sum(c.bytes for c in both) for both in zip(table["t0"].values(), table["t1"].values(), strict=True)]
        least += min(pair) - sizes[0][0] - sizes[1][0]
    for budget in (least, draw.randint(least, max(least, most)), most):
        found = best(table, budget, together)
        assert found.bytes <= budget
        assert found == totalled(table, found.choices)
        wanted = by_trying(table, budget, together)
        assert found.loss == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_units_of_more_than_a_byte_lose_little(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(seed)
    table = table_of(draw, 6, 4)
    least, most = (sum(f(c.bytes for c in kinds.values()) for kinds in table.values()) for f in (min, max))
    budget = (least + most) // 2
    exact = best(table, budget).loss
    monkeypatch.setattr("quantize.budget.UNITS", 100)
    found = best(table, budget)
    assert found.bytes <= budget
    assert exact <= found.loss * (1 + 1e-12)
    assert found.loss <= 1.5 * exact


def test_one_tensor_that_is_a_fifth_of_all_gets_its_step_where_that_is_best() -> None:
    """A price a byte would stop in front of it, and leave its bytes to the small ones."""
    small = {f"t{n}": {"4": Cost(50, 1.0), "5": Cost(60, 0.3), "8": Cost(90, 0.29)} for n in range(40)}
    table = {**small, "embedding": {"5": Cost(600, 10.0), "8": Cost(900, 1.0)}}
    budget = 40 * 60 + 880
    found = best(table, budget)
    assert found.choices["embedding"] == "8"
    assert found.bytes == budget


def test_almost_all_of_the_budget_is_used_where_there_are_many_tensors() -> None:
    draw = random.Random(1)
    table = table_of(draw, 200, 6)
    sizes = [[cost.bytes for cost in kinds.values()] for kinds in table.values()]
    least, most = sum(map(min, sizes)), sum(map(max, sizes))
    for share in (0.1, 0.33, 0.5, 0.8):
        budget = int(least + share * (most - least))
        assert 0.995 * budget <= best(table, budget).bytes <= budget


def test_more_bytes_never_cost_more() -> None:
    table = table_of(random.Random(7), 40, 6)
    least = sum(min(cost.bytes for cost in kinds.values()) for kinds in table.values())
    losses = [best(table, least + more).loss for more in range(0, 12000, 400)]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in itertools.pairwise(losses))


def test_the_order_of_the_table_is_the_order_of_the_choices_and_equal_tables_give_equal_ones() -> None:
    table = table_of(random.Random(3), 30, 5)
    first = best(table, 30_000)
    assert list(first.choices) == list(table)
    assert best({name: dict(kinds) for name, kinds in table.items()}, 30_000) == first


def test_a_type_that_costs_more_than_a_smaller_one_is_never_chosen() -> None:
    table = {"t": {"small": Cost(10, 1.0), "worse": Cost(20, 1.5), "same": Cost(30, 1.0)}}
    assert best(table, 100).choices == {"t": "small"}


def test_too_small_a_budget_says_what_the_smallest_is_and_who_holds_it() -> None:
    table = {"a": {"x": Cost(10, 1.0), "y": Cost(20, 0.0)}, "b": {"x": Cost(15, 1.0)}}
    with pytest.raises(TooSmall) as caught:
        best(table, 24)
    assert (caught.value.budget, caught.value.smallest) == (24, 25)
    assert caught.value.held == {"a": 10, "b": 15}
    assert best(table, 25).bytes == 25


def test_what_shares_a_choice_has_only_those_that_all_have() -> None:
    table = {"q": {"x": Cost(1, 3.0), "y": Cost(2, 2.0)}, "k": {"y": Cost(2, 2.0), "z": Cost(3, 0.0)}}
    assert best(table, 100, [("q", "k")]).choices == {"q": "y", "k": "y"}
    with pytest.raises(ValueError, match="no choice for q, k that all of them have"):
        best({"q": {"x": Cost(1, 1.0)}, "k": {"y": Cost(1, 1.0)}}, 9, [("q", "k")])
    with pytest.raises(ValueError, match="not in the table"):
        best(table, 100, [("q", "v")])
    with pytest.raises(ValueError, match="in two groups"):
        best(table, 100, [("q", "k"), ("k",)])


def test_costs_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="a cost of t is no number"):
        best({"t": {"x": Cost(1, float("nan"))}}, 9)
