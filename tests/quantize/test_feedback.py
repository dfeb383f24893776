"""Blocks refined by the Gram matrix of their inputs, read back by gguf-py; errors in float64 by none of our code."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from quantize.blocks import TYPES
from quantize.coded import layout
from quantize.encoders import ENCODERS, NEED_IMPORTANCE
from quantize.feedback import NORMAL, REFINED, Effort, gain, refine
from quantize.gptq import Inputs

TYPES_REFINED = sorted(REFINED)
ROWS, COLUMNS = 21, 512


def decoded(encoded: np.ndarray, name: str) -> np.ndarray:
    """What llama.cpp's own Python makes of the bytes."""
    found: np.ndarray = gguf.dequantize(encoded, gguf.GGMLQuantizationType[name])
    return found.astype(np.float64)


def output_errors(encoded: np.ndarray, name: str, values: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """float64 (rows,): the mean squared error of each output."""
    errors = decoded(encoded, name) - values
    return np.asarray((errors @ gram.astype(np.float64) * errors).sum(1))


@pytest.fixture(scope="module")
def gram() -> np.ndarray:
    """Of inputs whose columns go together and are of very different sizes; two of them are never used."""
    draw = np.random.default_rng(1)
    mixed = 0.1 * draw.standard_normal((COLUMNS, COLUMNS)) + np.diag(draw.uniform(0.1, 2, COLUMNS))
    inputs = draw.standard_normal((2000, COLUMNS)) @ mixed
    inputs[:, [3, 300]] = 0
    return np.asarray(inputs.T @ inputs / len(inputs), np.float32)


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    draw = np.random.default_rng(2)
    made = draw.standard_normal((ROWS, COLUMNS)) * draw.uniform(0.01, 3, (ROWS, 1))
    made[0] = 0
    made[1, :256] = 0
    made[2, 7] = 50  # an outlier
    made[3] = 1e-7 * made[3]  # scales that float16 has few of
    return made.astype(np.float32)


# ---- blocks taken apart


@pytest.mark.parametrize("name", TYPES_REFINED)
@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_taken_apart_are_what_a_reader_sees_and_go_together_again(
    name: str, weighted: bool, values: np.ndarray
) -> None:
    if not weighted and name in NEED_IMPORTANCE:
        return
    weights = np.random.default_rng(3).random(COLUMNS).astype(np.float32) if weighted else None
    encoded = ENCODERS[name](values, weights)
    coded = layout(name).coded(encoded)
    assert np.allclose(coded.values(), decoded(encoded, name), rtol=1e-6, atol=1e-12)
    assert np.array_equal(layout(name).encoded(coded), encoded)


@pytest.mark.parametrize("name", TYPES_REFINED)
def test_every_bit_of_a_block_comes_back(name: str) -> None:
    """Of random bytes; only the float16 numbers are made ones, and Q8_0's -128, which nobody writes, is none."""
    kind = TYPES[name]
    blocks = np.random.default_rng(4).integers(0, 256, (50, kind.bytes), dtype=np.uint8)
    grid = layout(name)
    some = np.random.default_rng(5).standard_normal((50, kind.values)).astype(np.float32)
    plain = ENCODERS[name](some, np.ones(kind.values, np.float32))
    for at in {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,)}.get(name, (0, 2) if grid.affine else (0,)):
        blocks[:, at : at + 2] = plain[:, at : at + 2]
    if name == "Q8_0":
        blocks[blocks == 128] = 1
    assert np.array_equal(grid.encoded(grid.coded(blocks)), blocks)


# ---- refined


@pytest.mark.parametrize("name", TYPES_REFINED)
def test_no_row_is_worse_and_all_together_are_much_better(name: str, values: np.ndarray, gram: np.ndarray) -> None:
    importance = np.ascontiguousarray(gram.diagonal())
    ordinary = ENCODERS[name](values, importance)
    made = refine(values, Inputs(gram), name)

    assert made.encoded.dtype == np.uint8
    assert made.encoded.shape == ordinary.shape == (ROWS, TYPES[name].row_bytes(COLUMNS))
    before, after = (output_errors(one, name, values, gram) for one in (ordinary, made.encoded))
    assert (after <= before * (1 + 1e-4)).all()
    assert after.sum() < 0.75 * before.sum()
    assert np.allclose(made.before, before, rtol=1e-2, atol=1e-9)
    assert np.allclose(made.after, after, rtol=1e-2, atol=1e-9)
    assert not decoded(made.encoded, name)[0].any()


@pytest.mark.parametrize("name", ["Q2_K", "Q4_K", "Q6_K", "Q5_1", "Q4_0", "IQ4_NL", "IQ4_XS"])
def test_no_level_that_is_one_up_or_down_would_be_better(name: str, values: np.ndarray, gram: np.ndarray) -> None:
    """After many turns, but for what rounding hides; scales were fitted once more after the last."""
    made = refine(values[4:6], Inputs(gram), name, effort=Effort((60,)))
    grid = layout(name)
    coded = grid.coded(made.encoded)
    table = np.array(grid.table or range(grid.low, grid.high + 1))
    wide = gram.astype(np.float64)
    wide += np.diag(Inputs(gram).added.numpy().astype(np.float64))  # what is made small is the damped error
    errors = coded.values() - values[4:6].astype(np.float64)
    step = (coded.d.repeat(grid.span // grid.width, 1) * coded.scales).repeat(grid.width, 1)
    at = np.searchsorted(table, coded.levels)
    gains = []
    for way in (-1, 1):
        there = np.clip(at + way, 0, len(table) - 1)
        move = (table[there] - table[at]) * step
        gains.append(-(2 * move * (errors @ wide) + move**2 * wide.diagonal()))
    total = (errors @ wide * errors).sum(1, keepdims=True)
    assert (np.maximum(*gains) < 1e-3 * total).all()
    assert (np.maximum(*gains) > 1e-6 * total).mean() < 0.02


@pytest.mark.parametrize("name", ["Q3_K", "Q5_K", "Q4_1", "Q8_0"])
def test_more_turns_make_no_row_worse(name: str, values: np.ndarray, gram: np.ndarray) -> None:
    """By the damped error, which descent makes small; the plain one may differ a little."""
    errors = [refine(values, Inputs(gram), name, effort=Effort((n,))).after.sum() for n in (0, 1, 4)]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("name", ["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"])
def test_eight_neighbours_have_signs_and_entries_that_are_hard_to_better(
    name: str, values: np.ndarray, gram: np.ndarray
) -> None:
    """No other entry with the same signs lowers the error of the descended blocks by much."""
    inputs = Inputs(gram)
    made = refine(values[4:6], inputs, name, effort=Effort((30,)))
    grid = layout(name)
    coded = grid.coded(made.encoded)
    wide = gram.astype(np.float64) + np.diag(inputs.added.numpy().astype(np.float64))
    errors = coded.values() - values[4:6].astype(np.float64)
    step = (coded.d.repeat(grid.span // grid.width, 1) * coded.scales).repeat(grid.width, 1)
    total = (errors @ wide * errors).sum(1)
    size = grid.book.shape[1]
    for row in range(2):
        slopes = errors[row] @ wide
        for at in range(0, COLUMNS, size):
            group = slice(at, at + size)
            moves = (grid.book * np.sign(coded.levels[row, group]) - coded.levels[row, group]) * step[row, group]
            gains = -(2 * moves @ slopes[group] + (moves @ wide[group, group] * moves).sum(1))
            assert gains.max() < 5e-3 * total[row]


@pytest.mark.parametrize("name", ["Q4_K", "IQ4_XS", "Q4_0"])
def test_inputs_that_do_not_go_together_leave_little_to_gain(name: str, values: np.ndarray) -> None:
    """Errors cannot make up for each other then: all there is to win is in the scales."""
    made = refine(values, Inputs(np.eye(COLUMNS, dtype=np.float32)), name)
    assert 0.9 < made.after[4:].sum() / made.before[4:].sum() <= 1


def test_the_same_of_rows_that_come_alone(values: np.ndarray, gram: np.ndarray) -> None:
    """But for the last bits of products of matrices, which depend on how many rows there are."""
    inputs = Inputs(gram)
    together = refine(values, inputs, "Q4_K")
    alone = refine(values[5:6], inputs, "Q4_K")
    assert (together.encoded[5] == alone.encoded[0]).mean() > 0.95
    assert abs(together.after[5] / alone.after[0] - 1) < 0.01


def test_values_too_large_for_the_type_are_left_to_the_ordinary_encoder(values: np.ndarray, gram: np.ndarray) -> None:
    """Whose infinite scale is how a writer sees that they are."""
    large = values.copy()
    large[6] *= np.float32(1e7)
    made, ordinary = refine(large, Inputs(gram), "Q4_K"), ENCODERS["Q4_K"](large, np.ascontiguousarray(gram.diagonal()))
    assert np.array_equal(made.encoded[6], ordinary[6])
    assert made.after[7] < made.before[7]


def test_few_tokens_are_no_error(values: np.ndarray) -> None:
    """Of a Gram matrix of lower rank: what was never seen is damped."""
    inputs = np.random.default_rng(6).standard_normal((20, COLUMNS)).astype(np.float32)
    gram = inputs.T @ inputs / 20
    made = refine(values, Inputs(gram), "Q4_K")
    assert made.after.sum() < made.before.sum()
    assert np.isfinite(decoded(made.encoded, "Q4_K")).all()


def test_what_is_gained_is_known_from_some_rows(values: np.ndarray, gram: np.ndarray) -> None:
    many = np.random.default_rng(7).standard_normal((400, COLUMNS)).astype(np.float32)
    made = refine(many, Inputs(gram), "Q4_0")
    assert abs(gain(many, Inputs(gram), "Q4_0") - made.after.sum() / made.before.sum()) < 0.05
    assert gain(np.zeros((3, COLUMNS), np.float32), Inputs(gram), "Q4_0") == 1


def test_columns_that_are_not_the_inputs_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="rows of 512 values for a Gram matrix of 256"):
        refine(values, Inputs(np.eye(256, dtype=np.float32)), "Q4_K")


def test_the_usual_effort_is_little_worse_than_all_there_is(values: np.ndarray, gram: np.ndarray) -> None:
    usual, most = (refine(values, Inputs(gram), "Q4_K", effort=e).after.sum() for e in (NORMAL, Effort((4, 4, 40))))
    assert usual < 1.06 * most
