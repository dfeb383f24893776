"""A layer's groups: what the engine puts in place and what goes to the file compute the same."""

from __future__ import annotations

import numpy as np
import pytest

from quantize import gptq
from quantize.grids import Grid, Quantized
from quantize.layer import PLAN, Group, Norm, Source, mirrored, quantize_group

torch = pytest.importorskip("torch")

WIDTH, INNER, HEADS, VALUE_HEADS = 64, 128, 4, 2
SHAPES = {
    "q": (WIDTH, WIDTH),
    "k": (WIDTH // 2, WIDTH),
    "v": (WIDTH // 2, WIDTH),
    "o": (WIDTH, WIDTH),
    "gate": (INNER, WIDTH),
    "up": (INNER, WIDTH),
    "down": (WIDTH, INNER),
}
RNG = np.random.default_rng(3)
WEIGHTS = {name: (RNG.normal(size=shape) * 0.1).astype(np.float32) for name, shape in SHAPES.items()}
NORMS = {"attention norm": RNG.lognormal(0, 1, WIDTH), "mlp norm": RNG.lognormal(0, 1, WIDTH)}
NORMS = {name: torch.tensor(value).bfloat16().float().numpy() for name, value in NORMS.items()}
HIDDEN = RNG.normal(size=(512, WIDTH)).astype(np.float32)
SOURCES = {"v": Source.heads(HEADS, VALUE_HEADS, WIDTH // HEADS), "up": Source.one_to_one(INNER)}


def run(weights: dict[str, np.ndarray], norms: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A layer whose attention sees a token only itself: what each group is given, and the end."""
    x = HIDDEN * norms["attention norm"]
    value = (x @ weights["v"].T)[:, SOURCES["v"].rows] * (1 + 0.1 * np.tanh(x @ weights["q"].T))
    middle = HIDDEN + value @ weights["o"].T
    y = middle * norms["mlp norm"]
    inner = np.tanh(y @ weights["gate"].T) * (y @ weights["up"].T)
    return {"q": x, "o": value, "gate": y, "down": inner, "end": middle + inner @ weights["down"].T}


def follow_the_plan(grid: Grid, effort: gptq.Effort) -> tuple[dict[str, np.ndarray], dict[str, Group]]:
    """The weights that the engine ends with, and the groups."""
    weights, done = dict(WEIGHTS), {}
    for names, front in PLAN:
        inputs = run(weights, NORMS)[names[0]]
        gram = (inputs.T @ inputs / len(inputs)).astype(np.float32)
        where = Norm(NORMS[front], "bfloat16") if front in NORMS else SOURCES[front]
        done[front] = quantize_group({name: weights[name] for name in names}, gram, grid, effort, where)
        weights.update({name: done[front].effective(name) for name in names})
    return weights, done


@pytest.mark.parametrize("effort", [gptq.NORMAL, gptq.PLAIN])
def test_the_file_computes_what_the_engine_saw(effort: gptq.Effort) -> None:
    weights, done = follow_the_plan(Grid(4, 32, symmetric=False), effort)
    made: dict[str, Quantized] = {name: each for group in done.values() for name, each in group.made.items()}
    norms = dict(NORMS)
    for front, group in done.items():
        if group.source_factors is None:
            assert group.multiplier is not None
            norms[front] = group.multiplier
        else:
            made[front] = made[front].divided(group.source_factors)
    from_file = run({name: each.dequantized() for name, each in made.items()}, norms)["end"]
    seen, was = run(weights, NORMS)["end"], run(WEIGHTS, NORMS)["end"]
    assert any((group.factors != 1).any() for group in done.values())
    noise = np.square(seen - was).mean()
    assert 0 < noise < 0.05 * np.square(was).mean()
    assert np.square(from_file - seen).mean() < 0.01 * noise  # float16 scales, divided, are rounded once more


def test_without_a_front_columns_stay_as_they_are() -> None:
    gram = (HIDDEN.T @ HIDDEN / len(HIDDEN)).astype(np.float32)
    group = quantize_group({"gate": WEIGHTS["gate"], "up": WEIGHTS["up"]}, gram, Grid(4, 32))
    assert (group.factors == 1).all()
    assert group.multiplier is group.source_factors is None
    assert {name: each.integers.shape for name, each in group.made.items()} == {"gate": (128, 64), "up": (128, 64)}
    for name in ("gate", "up"):
        assert np.abs(group.effective(name) - WEIGHTS[name]).max() < 0.2


def test_heads_share_the_rows_of_their_value_head() -> None:
    assert Source.heads(4, 2, 2).rows.tolist() == [0, 1, 0, 1, 2, 3, 2, 3]
    assert Source.heads(2, 2, 3).rows.tolist() == Source.one_to_one(6).rows.tolist()


def test_half_a_gram_matrix_is_enough() -> None:
    whole = HIDDEN.T @ HIDDEN
    half = np.where(np.tri(WIDTH, k=-1, dtype=bool), np.nan, whole)
    assert np.array_equal(mirrored(half), np.triu(whole) + np.triu(whole, 1).T)
