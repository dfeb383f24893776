"""Blocks of 4 and 8 bits: ONNX Runtime's bytes, what its operator makes of them, and less error than it has."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from quantize import nbits, nbits_search
from quantize.nbits_layout import Layout

SHAPES = [((40, 96), 32), ((33, 70), 16), ((5, 300), 128), ((8, 8), 16), ((3, 33), 32), ((17, 256), 256)]
LAYOUTS = [(bits, symmetric) for bits in (4, 8) for symmetric in (True, False)]


def weights(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Normal ones, and rows that are zero, tiny, of one sign, of one value, on halves of a step, with an outlier."""
    rng = np.random.default_rng(seed)
    made = rng.standard_normal(shape).astype(np.float32)
    for row, change in enumerate((0.0, 1e-6, 1e-30, 1e30)):
        made[row % len(made)] *= np.float32(change)
    if len(made) > 12:
        made[4], made[5] = np.abs(made[4]) + 1, -np.abs(made[5]) - 1
        made[6], made[7] = 0.5, -0.25
        made[8] = np.round(made[8] * 8) / 8
        made[9, 3] = 100
    return made


def theirs(values: np.ndarray, layout: Layout) -> list[np.ndarray]:
    """What ONNX Runtime's own quantizer makes of it."""
    from onnxruntime.capi._pybind_state import quantize_matmul_4bits, quantize_matmul_8bits

    rows, columns = values.shape
    padded = np.pad(values, ((0, 0), (0, -columns % layout.block_size))).T
    kinds = (np.uint8, np.float32, np.uint8)
    made = [np.zeros(shape, kind) for shape, kind in zip(layout.shapes(rows, columns), kinds, strict=False)]
    given = made if not layout.symmetric else [*made, np.zeros(0, np.uint8)]
    kernel = {4: quantize_matmul_4bits, 8: quantize_matmul_8bits}[layout.bits]
    kernel(
        given[0], np.ascontiguousarray(padded), given[1], given[2], layout.block_size, rows, columns, layout.symmetric
    )
    return made


@pytest.mark.parametrize(("bits", "symmetric"), LAYOUTS)
@pytest.mark.parametrize(("shape", "block"), SHAPES)
def test_plain_gives_the_bytes_of_onnx_runtime(shape: tuple[int, int], block: int, bits: int, symmetric: bool) -> None:
    values, layout = weights(shape), Layout(bits, block, symmetric)
    made = nbits.plain(values, layout, threads=2)
    ours = [made.values, made.scales, *([] if made.zeros is None else [made.zeros])]
    wanted = theirs(values, layout)
    if shape[1] % 2:  # beside an odd last column it leaves what it read there
        ours[0], wanted[0] = (nbits.unpacked(one[0], bits)[:, : shape[1]] for one in (ours, wanted))
    for mine, other in zip(ours, wanted, strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize(("bits", "symmetric"), LAYOUTS)
@pytest.mark.parametrize(("shape", "block"), SHAPES)
def test_no_block_gets_worse_by_a_search(shape: tuple[int, int], block: int, bits: int, symmetric: bool) -> None:
    """By the weighed error, whatever the weights and the importance are."""
    for seed, scales in itertools.product(range(3), ("F32", "F16")):
        values = weights(shape, seed) if scales == "F32" else np.clip(weights(shape, seed), -1000, 1000)
        layout = Layout(bits, block, symmetric, scales)
        costs = np.random.default_rng(seed).random(shape[1]).astype(np.float32) ** 4 if seed else None
        plain, found = nbits.plain(values, layout), nbits_search.searched(values, layout, costs, threads=2)
        before, after = (of_blocks(nbits.decode(one, layout, shape[1]), values, block, costs) for one in (plain, found))
        assert (after <= before * (1 + 1e-4) + 1e-30).all()
        whole = slice(13, None)  # normal ones
        assert after[whole].sum() <= before[whole].sum()


def of_blocks(decoded: np.ndarray, values: np.ndarray, block: int, costs: np.ndarray | None) -> np.ndarray:
    """(rows, blocks): the weighed squared error; no column is taken for worth nothing."""
    from quantize.mlx_search import costs_of

    error = (decoded.astype(np.float64) - values) ** 2 * costs_of(costs, values.shape[1])
    error = np.pad(error, ((0, 0), (0, -values.shape[1] % block)))
    return np.asarray(error.reshape(len(values), -1, block).sum(-1))


def test_a_search_finds_much_less_error_where_it_counts() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((64, 512)).astype(np.float32)
    costs = rng.random(512).astype(np.float32) ** 3 + 0.01
    for symmetric, least in ((True, 0.8), (False, 0.85)):
        layout = Layout(4, 32, symmetric)
        plain, found = nbits.plain(values, layout), nbits_search.searched(values, layout, costs)
        before, after = (of_blocks(nbits.decode(one, layout, 512), values, 32, costs).sum() for one in (plain, found))
        assert after < least * before  # measured: 0.76 and 0.80


@pytest.mark.parametrize(("bits", "symmetric"), LAYOUTS)
def test_levels_are_packed_and_unpacked(bits: int, symmetric: bool) -> None:
    rng = np.random.default_rng(0)
    for rows, columns, block in ((3, 64, 32), (5, 70, 16), (2, 33, 32), (4, 256, 128)):
        layout = Layout(bits, block, symmetric)
        levels = rng.integers(0, 1 << bits, (rows, columns), np.uint8)
        blocks = layout.blocks(columns)
        scales = rng.random((rows, blocks)).astype(np.float32)
        zeros = np.full((rows, blocks), layout.middle, np.uint8)
        if not symmetric:
            zeros = rng.integers(0, 1 << bits, (rows, blocks), np.uint8)
        made = nbits.packed(levels, layout, scales, zeros)
        np.testing.assert_array_equal(nbits.unpacked(made.values, bits)[:, :columns], levels)
        by = np.repeat(scales, block, 1)[:, :columns], np.repeat(zeros, block, 1)[:, :columns]
        wanted = (levels.astype(np.float32) - by[1]) * by[0]
        np.testing.assert_array_equal(nbits.decode(made, layout, columns), wanted)


def test_threads_and_pieces_change_nothing() -> None:
    values, layout = weights((64, 160)), Layout(4, 32, False)
    whole = nbits_search.searched(values, layout, None, threads=3)
    for part in (slice(0, 17), slice(17, 64)):
        one = nbits_search.searched(values[part], layout)
        np.testing.assert_array_equal(one.values, whole.values[part])
        np.testing.assert_array_equal(one.scales, whole.scales[part])


def test_what_there_is_not_is_refused() -> None:
    for words in ((3, 32), (4, 48), (4, 8), (4, 512), (4, 32, True, "F64")):
        with pytest.raises(ValueError, match="there are 4 and 8"):
            Layout(*words)
    with pytest.raises(ValueError, match="zero points other than 8"):
        nbits.packed(np.zeros((1, 32), np.uint8), Layout(), np.ones((1, 1)), np.full((1, 1), 7, np.uint8))
    with pytest.raises(ValueError, match="one for each column"):
        nbits_search.searched(np.ones((2, 32), np.float32), Layout(), np.ones(31, np.float32))
