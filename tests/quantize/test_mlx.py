"""MLX's layouts: the bits that mx.quantize gives, and better ones that lie in the same places."""

from __future__ import annotations

import numpy as np
import pytest

from quantize import mlx, mlx_search
from quantize.mlx_layout import AFFINE, BITS, FLOATS, GROUPS, TYPES, Layout

LAYOUTS = [Layout("affine", bits, group) for bits in BITS for group in GROUPS]
LAYOUTS += [Layout(mode, *shape) for mode, shape in FLOATS.items()]
NAMES = [f"{one.mode}-{one.bits}-{one.group_size}" for one in LAYOUTS]


def rows(dtype: str, seed: int = 0) -> np.ndarray:
    """Rows of every kind, numbers that the type has: zeros, equal ones, one far out, one sign, tiny, huge, steps."""
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(24, 256)) * 0.05).astype(np.float32)
    values[0], values[1], values[2], values[3, 5] = 0, 1, -3, 900
    values[4], values[5] = np.abs(values[4]), -np.abs(values[5])
    values[6] *= 1e-6
    values[7] *= 1e3
    values[8, ::2] = 0
    values[9] = np.linspace(-6, 6, 256)
    values[10] = np.round(values[10] * 80) / 4
    values[11] = rng.standard_cauchy(256)
    return mlx.rounded(values, dtype)


@pytest.mark.parametrize("bits", BITS)
def test_levels_are_packed_one_behind_the_other(bits: int) -> None:
    levels = np.random.default_rng(0).integers(0, 1 << bits, (3, 96), dtype=np.uint8)
    packed = mlx.pack(levels, bits)
    assert packed.dtype == np.uint32
    assert packed.shape == (3, 3 * bits)
    stream = int.from_bytes(packed[1].tobytes(), "little")
    assert [stream >> (bits * i) & ((1 << bits) - 1) for i in range(96)] == levels[1].tolist()
    assert (mlx.unpack(packed, bits) == levels).all()


def test_a_group_by_hand() -> None:
    """The end farther from 0 is kept exactly, and 0 is a level: -1..2 in steps of 0.25 becomes 2 - level / 4."""
    values = np.linspace(-1, 2, 13, dtype=np.float32)
    row = np.concatenate([values, np.zeros(19, np.float32)])[None]
    made = mlx.plain(row, Layout("affine", 4, 32), "F32")
    assert made.biases is not None
    assert made.biases[0, 0] == 2
    assert made.scales[0, 0] == np.float32(2) / -10  # (2 + 1) / 15 goes ten times into 2
    assert mlx.decode(made, Layout("affine", 4, 32))[0, 13] == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("layout", LAYOUTS, ids=NAMES)
def test_plain_is_what_mlx_makes(layout: Layout, dtype: str) -> None:
    """Integers, scales and biases; and what they are worth."""
    mx = pytest.importorskip("mlx.core")
    values = rows(dtype)
    kind = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}[dtype]
    weight = mx.array(values).astype(kind)
    wanted = mx.quantize(weight, group_size=layout.group_size, bits=layout.bits, mode=layout.mode)
    made = mlx.plain(values, layout, dtype)
    assert (np.array(wanted[0]) == made.weight).all()
    affine = layout.mode == AFFINE
    parts = [np.array(part.astype(mx.float32) if affine else part) for part in wanted[1:]]
    assert (parts[0] == made.scales).all()
    assert not affine or (parts[1] == made.biases).all()
    wide = [mx.array(part) for part in parts]
    words = {"group_size": layout.group_size, "bits": layout.bits, "mode": layout.mode, "dtype": mx.float32}
    decoded = np.array(mx.dequantize(wanted[0], *wide, **words))
    np.testing.assert_allclose(mlx.decode(made, layout), decoded, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=NAMES)
def test_a_search_makes_no_group_worse(layout: Layout, dtype: str) -> None:
    """By the error that counts; in all it is better, and scales are numbers that the file has."""
    values = rows(dtype, 1)
    costs = np.random.default_rng(2).uniform(0.1, 4, 256).astype(np.float32)
    errors = []
    for made in (mlx.plain(values, layout, dtype), mlx_search.searched(values, layout, dtype, costs)):
        squared = np.square(mlx.decode(made, layout).astype(np.float64) - values) * costs
        errors.append(squared.reshape(24, -1, layout.group_size).sum(2))
        assert layout.mode != AFFINE or (mlx.rounded(made.scales, dtype) == made.scales).all()
    sizes = np.square(values.astype(np.float64)).reshape((*errors[0].shape, -1)).sum(2)
    assert (errors[1] <= errors[0] * 1.01 + 1e-9 * sizes + 1e-18).all()
    ordinary = slice(12, None)
    assert errors[1][ordinary].sum() <= errors[0][ordinary].sum() * (1 if layout.mode == "mxfp8" else 0.97)


def test_eight_bits_in_bfloat16_are_made_for_the_rounded_scale() -> None:
    """mx.quantize rounds its scale behind the levels: half of its error is that."""
    values, layout = rows("BF16")[12:], Layout("affine", 8, 64)
    errors = [
        np.square(mlx.decode(made, layout) - values).sum()
        for made in (mlx.plain(values, layout, "BF16"), mlx_search.searched(values, layout, "BF16"))
    ]
    assert errors[1] < 0.65 * errors[0]


def test_one_row_alone_is_as_among_others() -> None:
    """Lanes hold many groups: how many there are changes none of them, nor do threads."""
    values, layout = rows("F16", 3), Layout("affine", 3, 64)
    together = mlx_search.searched(values, layout, "F16")
    in_threads = mlx_search.searched(values, layout, "F16", threads=3)
    assert (in_threads.weight == together.weight).all()
    for row in (0, 11, 23):
        alone = mlx_search.searched(values[row : row + 1], layout, "F16")
        assert (alone.weight[0] == together.weight[row]).all()
        assert (alone.scales[0] == together.scales[row]).all()


@pytest.mark.parametrize("bits", BITS)
def test_gptq_makes_less_error_of_outputs(bits: int) -> None:
    """On inputs that depend on each other: less than half, of what a search by their squares leaves."""
    from quantize import mlx_gptq
    from quantize.gptq import Inputs

    rng = np.random.default_rng(4)
    mixing = rng.normal(size=(128, 128)) * np.exp(rng.normal(size=128))[:, None]
    inputs = (rng.normal(size=(1024, 128)) @ mixing).astype(np.float32)
    gram = inputs.T @ inputs / len(inputs)
    values = mlx.rounded((rng.normal(size=(48, 128)) * 0.05).astype(np.float32), "BF16")
    layout = Layout("affine", bits, 64)
    made = mlx_gptq.solved(values, layout, "BF16", Inputs(gram.copy()))
    searched = mlx_search.searched(values, layout, "BF16", np.diag(gram).copy())
    losses = []
    for one in (searched, made):
        off = mlx.decode(one, layout) - values
        losses.append(float(np.trace(off @ gram @ off.T)))
    assert losses[1] < 0.5 * losses[0]
    assert made.biases is not None
    assert (mlx.rounded(made.scales, "BF16") == made.scales).all()
    assert (mlx.rounded(made.biases, "BF16") == made.biases).all()


def test_gptq_of_equal_values() -> None:
    """A group without a range is its bias, whatever its inputs were."""
    from quantize import mlx_gptq
    from quantize.gptq import Inputs

    values = np.full((2, 64), 0.5, np.float32)
    layout = Layout("affine", 4, 32)
    made = mlx_gptq.solved(values, layout, "BF16", Inputs(np.eye(64, dtype=np.float32)))
    assert (mlx.decode(made, layout) == 0.5).all()


def test_what_mlx_does_not_have() -> None:
    for words in (("affine", 7, 64), ("affine", 4, 16), ("mxfp4", 8, 32), ("nvfp4", 4, 32), ("int4", 4, 64)):
        with pytest.raises(ValueError, match="groups of"):
            Layout(*words)
    with pytest.raises(ValueError, match="one for each column"):
        mlx_search.searched(np.zeros((1, 64), np.float32), Layout(), "F32", np.ones(3, np.float32))
