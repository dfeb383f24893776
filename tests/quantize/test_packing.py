"""Integers in int32 words: gptqmodel's own bytes, and back again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quantize import packing

SHAPES = [(32, 32), (64, 96), (96, 160)]


def integers(shape: tuple[int, int], bits: int, low: int = 0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, 1 << bits, shape).astype(np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", packing.GPTQ_BITS)
def test_gptqs_words_give_back_the_integers(bits: int, shape: tuple[int, int]) -> None:
    values = integers(shape, bits)
    words = packing.gptq_weights(values, bits)
    assert (words.shape, words.dtype) == ((shape[1] * bits // 32, shape[0]), np.int32)
    assert np.array_equal(packing.gptq_integers(words, bits), values)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("bits", packing.GPTQ_BITS)
def test_zero_points_come_back_in_both_formats(bits: int, version: int) -> None:
    zeros = integers((64, 3), bits, low=2 - version)
    words = packing.gptq_zeros(zeros, bits, version)
    assert (words.shape, words.dtype) == ((3, 64 * bits // 32), np.int32)
    assert np.array_equal(packing.gptq_zero_points(words, bits, version), zeros)


def test_the_largest_zero_point_of_the_first_format_is_one_above_its_bits() -> None:
    words = packing.gptq_zeros(np.full((32, 1), 16), 4, 1)
    assert (words == -1).all()
    assert (packing.gptq_zero_points(words, 4, 1) == 16).all()


@pytest.mark.parametrize("shape", [(8, 5), (64, 96), (96, 3)])
def test_awqs_words_give_back_the_integers(shape: tuple[int, int]) -> None:
    values = integers(shape, 4)
    words = packing.awq_words(values)
    assert (words.shape, words.dtype) == ((shape[1], shape[0] // 8), np.int32)
    assert np.array_equal(packing.awq_integers(words), values)


def test_awqs_word_holds_even_rows_below_odd_ones() -> None:
    assert packing.awq_words(np.arange(8)[:, None])[0, 0] == 0x75316420


def test_three_bits_run_across_words() -> None:
    """The eleventh value has two bits in the first word and one in the second (AutoGPTQ, `pack`)."""
    values = np.zeros((32, 32), np.uint8)
    values[0, 10] = 7
    words = packing.gptq_weights(values, 3)[:, 0].view(np.uint32)
    assert words.tolist() == [3 << 30, 1, 0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: packing.gptq_weights(np.full((32, 32), 16), 4), "4 bits hold 0 to 15"),
        (lambda: packing.gptq_weights(np.full((32, 32), -1), 4), "4 bits hold 0 to 15"),
        (lambda: packing.gptq_weights(np.zeros((32, 40), int), 3), "multiples of 32"),
        (lambda: packing.gptq_weights(np.zeros((32, 32), int), 5), "not 5"),
        (lambda: packing.gptq_integers(np.zeros((4, 32), np.int32), 5), "not 5"),
        (lambda: packing.gptq_zeros(np.zeros((32, 1), int), 4, 1), "gptq_v2"),
        (lambda: packing.gptq_zeros(np.ones((32, 1), int), 4, 3), "not 3"),
        (lambda: packing.awq_words(np.full((8, 1), 16)), "4 bits hold 0 to 15"),
        (lambda: packing.awq_words(np.zeros((12, 1), int)), "words of eight"),
    ],
)
def test_what_does_not_fit_is_refused(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def linear(values: np.ndarray, scales: np.ndarray, zeros: np.ndarray, group: np.ndarray) -> Any:
    """A torch Linear whose weight is what the integers mean."""
    import torch

    module = torch.nn.Linear(values.shape[1], values.shape[0], bias=False)
    weight = (values - zeros[:, group].astype(np.float64)) * scales[:, group]
    module.weight.data = torch.tensor(weight, dtype=torch.float32)
    return module


@pytest.mark.parametrize("bits", packing.GPTQ_BITS)
def test_gptq_words_are_gptqmodels_byte_for_byte(bits: int) -> None:
    torch, kernels = pytest.importorskip("torch"), pytest.importorskip("gptqmodel.nn_modules.qlinear.torch")
    rows, columns, size = 64, 128, 32
    rng = np.random.default_rng(bits)
    values, zeros = integers((rows, columns), bits), integers((rows, columns // size), bits, low=1)
    scales = rng.uniform(0.01, 0.02, zeros.shape).astype(np.float16).astype(np.float32)
    group = rng.permutation(np.arange(columns) // size)
    module = linear(values, scales, zeros, group)
    packer = kernels.TorchLinear(
        bits=bits,
        group_size=size,
        sym=False,
        desc_act=True,
        in_features=columns,
        out_features=rows,
        register_buffers=False,
    )
    packer.pack_original(module, torch.tensor(scales), torch.tensor(zeros.astype(np.int32)), torch.tensor(group))
    assert np.array_equal(packer.qweight.numpy(), packing.gptq_weights(values, bits))
    assert np.array_equal(packer.qzeros.numpy(), packing.gptq_zeros(zeros, bits, 2))
    packer.pack_original(module, torch.tensor(scales), torch.tensor(zeros.astype(np.int32) - 1), torch.tensor(group))
    assert np.array_equal(packer.qzeros.numpy(), packing.gptq_zeros(zeros, bits, 1))


def test_awq_words_are_those_that_gptqmodel_writes_in_autoawqs_order() -> None:
    torch, kernels = pytest.importorskip("torch"), pytest.importorskip("gptqmodel.nn_modules.qlinear.gemm_awq")
    rows, columns, size = 64, 128, 32
    values, zeros = integers((rows, columns), 4), integers((rows, columns // size), 4, seed=1)
    scales = np.random.default_rng(2).uniform(0.01, 0.02, zeros.shape).astype(np.float16)
    module = linear(values, scales.astype(np.float32), zeros, np.arange(columns) // size)
    packer = torch.nn.Module()  # the class itself wants CUDA; its `pack` does not
    packer.bits, packer.group_size, packer.in_features = 4, size, columns
    kernels.AwqGEMMLinear.pack(packer, module, torch.tensor(scales), torch.tensor(zeros))
    assert np.array_equal(packer.qweight.numpy(), packing.awq_words(values))
    assert np.array_equal(packer.qzeros.numpy(), packing.awq_words(zeros))
