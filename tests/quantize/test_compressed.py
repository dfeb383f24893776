"""Matrices in compressed-tensors' layouts: that library reads back what ours does, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from quantize import e2m1, e4m3, integers
from quantize.compressed import Encoding, Fp8, Int8, Mxfp4, Nvfp4, Packed
from quantize.presets import FP8_TENSOR, PRESETS, Preset, preset_of, quantization_config, with_group

ALL = {**PRESETS, "FP8_TENSOR": FP8_TENSOR, "W8A16 by row": with_group(PRESETS["W8A16"], -1)}
ALL |= {"W4A16 of 32": with_group(PRESETS["W4A16"], 32)}
SHAPE = (70, 256)  # rows that fill no block


def matrix(dtype: str = "F32", seed: int = 0) -> np.ndarray:
    """Rows of very different sizes, one of them zero, as the type holds them; float32."""
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal(SHAPE) * 2.0 ** rng.integers(-9, 3, (SHAPE[0], 1))).astype(np.float32)
    values[5] = 0
    if dtype == "BF16":
        return (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
    return values.astype(np.float16).astype(np.float32) if dtype == "F16" else values


def as_torch(parts: Mapping[str, np.ndarray], encoding: Encoding, dtype: str) -> dict[str, Any]:
    """The parts as safetensors would give them to torch."""
    import torch

    kinds = {"F8_E4M3": torch.float8_e4m3fn, "BF16": torch.bfloat16}
    found = {}
    for suffix, (kind, shape) in encoding.specs(SHAPE, dtype).items():
        tensor = torch.from_numpy(np.array(parts[suffix]))
        found[suffix] = tensor.view(kinds[kind]) if kind in kinds else tensor
        assert tuple(found[suffix].shape) == shape, suffix
    assert found.keys() == parts.keys()
    return found


def librarys(preset: Preset, parts: Mapping[str, np.ndarray], dtype: str) -> Any:
    """The matrix as the library's own decompressor gives it."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    config = QuantizationConfig.model_validate(quantization_config(preset, ["lm_head"]))
    (scheme,) = config.config_groups.values()
    found = BaseCompressor.get_value_from_registry(config.format).decompress(
        as_torch(parts, preset.encoding, dtype), scheme
    )
    return found["weight"]


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("name", ALL)
def test_the_librarys_decompressor_reads_what_ours_reads(name: str, dtype: str) -> None:
    import torch

    preset, values = ALL[name], matrix(dtype)
    parts = preset.encoding.encode(values, dtype, float(np.abs(values).max()))
    theirs = librarys(preset, parts, dtype)
    ours = torch.from_numpy(preset.encoding.decode(parts)).to(theirs.dtype)
    assert torch.equal(theirs, ours)
    error = np.sqrt(((ours.float().numpy() - values) ** 2).sum() / (values**2).sum())
    assert error < {8: 0.03, 4: 0.13}[preset.bits] or dtype == "F16"  # whose scales lose the smallest rows


@pytest.mark.parametrize("name", ALL)
def test_config_json_is_what_the_library_would_write(name: str) -> None:
    from compressed_tensors.quantization import QuantizationConfig
    from compressed_tensors.quantization.quant_scheme import is_preset_scheme, preset_name_to_scheme

    preset = ALL[name]
    words = quantization_config(preset, ["re:(?:.*\\.)?lm_head$"])
    config = QuantizationConfig.model_validate(json.loads(json.dumps(words)))
    assert config.model_dump(mode="json") == words | {"moe_sparsity_config": None}
    (scheme,) = config.config_groups.values()
    if name in PRESETS:
        assert is_preset_scheme(name)
        same = preset_name_to_scheme(name, ["Linear"])
        for ours, theirs in ((scheme.weights, same.weights), (scheme.input_activations, same.input_activations)):
            assert (ours and ours.model_dump()) == (theirs and theirs.model_dump())
    assert preset_of(words) == replace(preset, inputs=words["config_groups"]["group_0"]["input_activations"])  # type: ignore[index]


def test_a_config_of_several_schemes_or_none_is_no_preset() -> None:
    words: dict[str, Any] = quantization_config(PRESETS["W8A8"], [])
    assert preset_of(words | {"config_groups": words["config_groups"] | {"group_1": {}}}) is None
    assert preset_of(words | {"config_groups": {"group_0": {"weights": None}}}) is None
    assert preset_of({"quant_method": "gptq"}) is None
    odd = words["config_groups"]["group_0"]
    assert preset_of(words | {"config_groups": {"g": {**odd, "weights": {**odd["weights"], "num_bits": 6}}}}) is None


@pytest.mark.parametrize("bits", range(2, 9))
def test_words_are_the_librarys(bits: int) -> None:
    import torch
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32

    low, high = integers.limits(bits)
    numbers = np.random.default_rng(bits).integers(low, high + 1, (6, 77)).astype(np.int8)
    packed = integers.pack(numbers, bits)
    assert np.array_equal(packed, pack_to_int32(torch.from_numpy(numbers), bits).numpy())
    assert np.array_equal(integers.unpack(packed, bits, 77), numbers)
    assert np.array_equal(unpack_from_int32(torch.from_numpy(packed), bits, torch.Size((6, 77))).numpy(), numbers)
    zeros = integers.pack_zeros(numbers, bits)
    assert np.array_equal(zeros, pack_to_int32(torch.from_numpy(numbers), bits, packed_dim=0).numpy())
    assert np.array_equal(integers.unpack_zeros(zeros, bits, 6), numbers)


def test_integers_that_somebody_else_found_are_packed_with_their_zeros() -> None:
    rng = np.random.default_rng(3)
    encoding = Packed(4, 32, symmetric=False)
    numbers = rng.integers(-8, 8, SHAPE).astype(np.int8)
    zeros = rng.integers(-8, 8, (SHAPE[0], SHAPE[1] // 32)).astype(np.int8)
    scales = rng.random((SHAPE[0], SHAPE[1] // 32)).astype(np.float32) + 1
    parts = encoding.pack(numbers, scales, zeros)
    wanted = (numbers.astype(np.float32) - zeros.repeat(32, 1)) * scales.repeat(32, 1)
    assert np.array_equal(encoding.decode(parts), wanted)
    assert np.array_equal(librarys(Preset("W4A16", encoding), parts, "F32").numpy(), wanted)
    with pytest.raises(ValueError, match="zeros missing, symmetric is False"):
        encoding.pack(numbers, scales)


# ---- values


def test_e4m3_is_torchs() -> None:
    import torch

    rng = np.random.default_rng(0)
    values = np.concatenate(
        [
            np.linspace(-500, 500, 1 << 16),
            rng.standard_normal(1 << 16) * 2.0 ** rng.integers(-14, 9, 1 << 16),
            e4m3.VALUES[np.isfinite(e4m3.VALUES)],
            (e4m3.VALUES[:125] + e4m3.VALUES[1:126]) / 2,  # ties
            [0.0, -0.0],
        ]
    ).astype(np.float32)[None]
    ours = e4m3.encode(values, np.ones((1, 1), np.float32), values.shape)
    theirs = torch.from_numpy(values).clamp(-448, 448).to(torch.float8_e4m3fn)
    assert np.array_equal(ours, theirs.view(torch.uint8).numpy())
    assert np.array_equal(e4m3.VALUES[ours], theirs.float().numpy())


def test_what_is_not_finite_is_found() -> None:
    values = np.ones((4, 8), np.float32)
    assert e4m3.largest(values, (2, 8)).tolist() == [[1.0], [1.0]]
    values[3, 7] = np.inf
    assert e4m3.largest(values, (2, 8)).tolist() == [[1.0], [np.inf]]
    values[0, 0] = np.nan  # in front of what is finite
    assert np.isnan(e4m3.largest(values, (2, 8))[0, 0])


@pytest.mark.parametrize("group", [16, 32])
def test_e2m1_is_the_nearest_for_the_scale_that_was_found(group: int) -> None:
    values = matrix()
    if group == 16:
        overall = e2m1.global_scale(float(np.abs(values).max()))
        packed, codes = e2m1.nvfp4(values, overall)
        scales = (e4m3.VALUES[codes] / overall).repeat(16, 1)
    else:
        packed, codes = e2m1.mxfp4(values)
        scales = e2m1.EXPONENTS[codes].repeat(32, 1)
    every = np.abs(values[..., None] / scales[..., None] - e2m1.VALUES)
    taken = np.abs(values / scales - e2m1.unpack(packed))
    np.testing.assert_allclose(taken, every.min(-1), atol=1e-6)


@pytest.mark.parametrize(("encoding", "plain"), [(Nvfp4(False), 0.0090), (Mxfp4(), 0.0136), (Packed(4, 128), 0.0126)])
def test_searched_scales_lose_less_than_those_of_the_largest_value(encoding: Encoding, plain: float) -> None:
    """`plain` is what the scale that reaches the largest value, as the library finds it, loses of normal numbers."""
    values = np.random.default_rng(0).standard_normal((512, 1024)).astype(np.float32)
    made = encoding.decode(encoding.encode(values, "F32", float(np.abs(values).max())))
    assert ((made - values) ** 2).mean() < 0.95 * plain


def test_groups_that_fill_no_register_and_rows_that_fill_no_lanes_are_searched_too() -> None:
    values = np.random.default_rng(1).standard_normal((7, 37)).astype(np.float32)
    scales = integers.symmetric_scales(values, 4, 37)
    made = integers.decode(integers.round_to(values, scales, 4, 37), scales, 37)
    largest = e4m3.largest(values, (1, 37)) / 7
    plain = integers.decode(integers.round_to(values, largest, 4, 37), largest, 37)
    assert scales.shape == (7, 1)
    assert ((values * (made - values)) ** 2).sum() < ((values * (plain - values)) ** 2).sum()


def test_a_matrix_of_zeros_and_one_too_small_for_a_scale() -> None:
    for preset in ALL.values():
        for values in (np.zeros(SHAPE, np.float32), np.full(SHAPE, 1e-44, np.float32)):
            made = preset.encoding.decode(preset.encoding.encode(values, "BF16", float(values.max())))
            assert np.abs(made).max() < 1e-3, preset.name


# ---- shapes


def test_what_does_not_fit_is_told() -> None:
    assert "not a multiple of 128" in Packed(4, 128).unsuitable((64, 576), False)
    assert not Packed(4, -1).unsuitable((64, 577), False)
    assert "576 input columns" in Fp8("block").unsuitable((128, 576), False)
    assert "64 rows" in Fp8("block").unsuitable((64, 128), True)
    assert not Fp8("block").unsuitable((64, 128), False)
    assert not Fp8("channel").unsuitable((63, 65), True)
    assert "not a multiple of 16" in Nvfp4(True).unsuitable((64, 40), False)
    assert "not a multiple of 32" in Mxfp4().unsuitable((64, 48), False)
    assert not Int8().unsuitable((1, 1), True)
    with pytest.raises(ValueError, match="groups of W8A8"):
        with_group(PRESETS["W8A8"], 64)
