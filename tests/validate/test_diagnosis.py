"""Every hypothesis on a tensor that had that happen to it, and none on one that was only rounded."""

from __future__ import annotations

import numpy as np
import pytest

from validate.diagnosis import Measured, explain, measure_piece, measured, suspects

DRAW = np.random.default_rng(3)
SOURCE = DRAW.standard_normal((64, 96)).astype(np.float32)
KERNELS = DRAW.standard_normal((16, 3, 6, 6)).astype(np.float32)
EXPERTS = DRAW.standard_normal((4, 8, 32)).astype(np.float32)


def rounded(values: np.ndarray) -> np.ndarray:
    return (values + 0.05 * DRAW.standard_normal(values.shape)).astype(np.float32)


def changed(place: tuple[object, ...], factor: float) -> np.ndarray:
    values = rounded(SOURCE)
    values[place] *= np.float32(factor)
    return values


def exchanged() -> np.ndarray:
    values = rounded(SOURCE)
    values[[3, 9]] = values[[9, 3]]
    return values


def other_expert() -> np.ndarray:
    values = rounded(EXPERTS)
    values[2] = values[1]
    return values


@pytest.mark.parametrize(
    ("stored", "source", "words"),
    [
        (0 * SOURCE, SOURCE, "all its values are zero"),
        (-rounded(SOURCE), SOURCE, "it is negated"),
        (2 * rounded(SOURCE), SOURCE, "it is multiplied by 2"),
        (rounded(SOURCE).T.reshape(64, 96), SOURCE, "it is transposed"),
        (rounded(SOURCE).reshape(4, 2, 8, 96).swapaxes(1, 2).reshape(64, 96), SOURCE, "its rows are in another order"),
        (exchanged(), SOURCE, "rows are exchanged: row 3 is the source's 9"),
        (rounded(SOURCE)[:, ::-1], SOURCE, "its columns are in another order (column 0 is the source's 95)"),
        (rounded(KERNELS)[:, ::-1], KERNELS, "its channels are in another order (channel 0 is the source's 2)"),
        (rounded(KERNELS).swapaxes(2, 3), KERNELS, "the rows and columns of its kernels are exchanged"),
        (changed((5, slice(32, 64)), 2), SOURCE, "row 5, columns 32 to 63 are 2"),
        (changed((0, 0), np.nan), SOURCE, "1 values are NaN or infinite, the first at [0, 0]"),
        (SOURCE + 2, SOURCE, "2 is added to every value, as zero points that are off"),
        (SOURCE[0] + 2, SOURCE[0], "2 is added to every value"),
        (other_expert(), EXPERTS, "expert 2: it is that of expert 1"),
    ],
)
def test_what_happened_is_said(stored: np.ndarray, source: np.ndarray, words: str) -> None:
    assert words in explain(stored, source)


def test_the_values_of_another_tensor_are_known() -> None:
    other = DRAW.standard_normal(SOURCE.shape).astype(np.float32)
    assert explain(rounded(other), SOURCE, {"blk.5.attn_q.weight": lambda: other}).endswith("blk.5.attn_q.weight")


def test_only_rows_are_permuted_for_rotary_positions() -> None:
    assert "rotary" not in explain(rounded(SOURCE)[:, ::-1], SOURCE)
    assert "zero points" not in explain(SOURCE[0] + 2, SOURCE[0])


def test_rounding_is_no_hypothesis_and_noise_neither() -> None:
    assert explain(rounded(SOURCE), SOURCE) == ""
    assert explain(DRAW.standard_normal(SOURCE.shape), SOURCE) == ""


def of(name: str, kind: str, stored: np.ndarray) -> Measured:
    return measured(name, kind, [measure_piece(stored, SOURCE)])


def test_suspects_are_those_beyond_their_type() -> None:
    sound = [of(f"blk.{i}", "Q4_K", rounded(SOURCE)) for i in range(4)]
    assert suspects(sound) == {}
    found = suspects([*sound, of("wrong", "Q4_K", -SOURCE), of("part", "Q4_K", changed((5, slice(32, 64)), 2))])
    assert list(found) == ["wrong", "part"]
    assert "error 2, others of Q4_K have 0.0" in found["wrong"]
    assert "times the source's, error" in found["part"]
    assert list(suspects([of("nan", "F16", changed((0, 0), np.nan))])) == ["nan"]


def test_a_type_of_few_bits_may_lose_much() -> None:
    coarse = (SOURCE + 0.4 * DRAW.standard_normal(SOURCE.shape)).astype(np.float32)
    assert suspects([of("a", "Q2_K", coarse)]) == {}
    assert list(suspects([of("a", "Q8_0", coarse)])) == ["a"]


@pytest.mark.parametrize("kind", ["Q3_K", "Q2_K"])
def test_a_block_of_another_scale_is_seen_in_few_bits_too(kind: str) -> None:
    coarse = (SOURCE + 0.25 * DRAW.standard_normal(SOURCE.shape)).astype(np.float32)
    assert suspects([of("sound", kind, coarse)]) == {}
    coarse[5, 32:64] *= 2
    assert "a block is" in suspects([of("doubled", kind, coarse)])["doubled"]
