"""Tiny checkpoints whose matrices are stored quantized, by arithmetic written out, and what each matrix then is.

    folder, whole = packed(tmp_path, "gptq")

`whole` maps each packed weight to its float32 values, computed by torch from the stored tensors as each method's own
library does it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests import tiny
from tests.fixtures_gguf import edit_config, edit_weights

Tensors = dict[str, Any]
Pack = Callable[[Tensor], tuple[Tensors, Tensor]]
"""From a matrix to the tensors it is stored as, by suffix, and what they mean."""

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
NF4 = torch.tensor(
    [
        *(-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0),
        *(0.0795803, 0.1609302, 0.24611230, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0),
    ]
)
FP4 = torch.tensor(
    [0, 0.0052, 0.6667, 1.0, 0.3333, 0.5, 0.1667, 0.25, 0, -0.0052, -0.6667, -1, -0.3333, -0.5, -0.1667, -0.25]
)
GENERATOR = torch.Generator()


def _spread(scales: Tensor, rows: int, columns: int, shape: Any) -> Tensor:
    return scales.float().repeat_interleave(rows, 0)[: shape[0]].repeat_interleave(columns, 1)[:, : shape[1]]


def fp8_blocks(matrix: Tensor, rows: int = 32, columns: int = 48) -> tuple[Tensors, Tensor]:
    """DeepSeek's: a float32 for each block, the last ones smaller."""
    grid = -(-matrix.shape[0] // rows), -(-matrix.shape[1] // columns)
    scales = torch.rand(grid, generator=GENERATOR) * 0.01 + 0.001
    spread = _spread(scales, rows, columns, matrix.shape)
    stored = (matrix.float() / spread).clamp(-448, 448).to(torch.float8_e4m3fn)
    return {"weight": stored, "weight_scale_inv": scales}, stored.float() * spread


def fp8_tensor(matrix: Tensor) -> tuple[Tensors, Tensor]:
    scale = matrix.float().abs().max() / 448
    stored = (matrix.float() / scale).to(torch.float8_e4m3fn)
    own = {"weight": stored, "weight_scale": scale.reshape(1), "input_scale": torch.ones(1)}
    return own, stored.float() * scale


def fp8_scalar(matrix: Tensor) -> tuple[Tensors, Tensor]:
    """Mistral's: the scale of the tensor has no axis."""
    tensors, whole = fp8_tensor(matrix)
    scale = tensors["weight_scale"].reshape(())
    return {"weight": tensors["weight"], "weight_scale_inv": scale, "activation_scale": torch.ones(())}, whole


def fp8_channel(matrix: Tensor) -> tuple[Tensors, Tensor]:
    scale = (matrix.float().abs().amax(1, keepdim=True) / 448).bfloat16()
    stored = (matrix.float() / scale.float()).clamp(-448, 448).to(torch.float8_e4m3fn)
    return {"weight": stored, "weight_scale": scale}, stored.float() * scale.float()


def int8_channel(matrix: Tensor) -> tuple[Tensors, Tensor]:
    scale = (matrix.float().abs().amax(1, keepdim=True) / 127).bfloat16()
    stored = (matrix.float() / scale.float()).round().clamp(-128, 127).to(torch.int8)
    return {"weight": stored, "weight_scale": scale}, stored.float() * scale.float()


def _words(levels: Tensor, bits: int) -> Tensor:
    """int32 (rows, words) of levels (rows, columns), the first in the lowest bits."""
    each = 32 // bits
    rows, columns = levels.shape
    padded = torch.zeros(rows, -(-columns // each) * each, dtype=torch.int64)
    padded[:, :columns] = levels
    shifts = torch.arange(each) * bits
    words = (padded.reshape(rows, -1, each) << shifts).sum(-1)
    return (words - ((words >> 31) << 32)).to(torch.int32)


def pack_int4(matrix: Tensor, group: int = 16, *, zeros: bool = False, order: bool = False) -> tuple[Tensors, Tensor]:
    rows, columns = matrix.shape
    levels = torch.randint(0, 16, (rows, columns), generator=GENERATOR)
    scales = (torch.rand(rows, columns // group, generator=GENERATOR) * 0.02).bfloat16()
    own: Tensors = {
        "weight_packed": _words(levels, 4),
        "weight_scale": scales,
        "weight_shape": torch.tensor([rows, columns]),
    }
    index = torch.arange(columns) // group
    offset = torch.full((rows, columns // group), 8)
    if zeros:
        offset = torch.randint(0, 16, (rows, columns // group), generator=GENERATOR)
        own["weight_zero_point"] = _words(offset.T.contiguous(), 4).T.contiguous()
    if order:
        index = index[torch.randperm(columns, generator=GENERATOR)]
        own["weight_g_idx"] = index.to(torch.int32)
    return own, (levels - offset[:, index]).float() * scales.float()[:, index]


def _halves(codes: Tensor) -> Tensor:
    return (codes[:, ::2] | codes[:, 1::2] << 4).to(torch.uint8)


def nvfp4(matrix: Tensor) -> tuple[Tensors, Tensor]:
    rows, columns = matrix.shape
    codes = torch.randint(0, 16, (rows, columns), generator=GENERATOR)
    scales = (torch.rand(rows, columns // 16, generator=GENERATOR) * 400 + 1).to(torch.float8_e4m3fn)
    overall = torch.tensor([2688.0 / 0.37])
    whole = E2M1[codes] * _spread(scales.float() / overall, 1, 16, matrix.shape)
    own = {"weight_packed": _halves(codes), "weight_scale": scales, "weight_global_scale": overall}
    return own | {"input_global_scale": torch.ones(1)}, whole


def mxfp4(matrix: Tensor) -> tuple[Tensors, Tensor]:
    rows, columns = matrix.shape
    codes = torch.randint(0, 16, (rows, columns), generator=GENERATOR)
    scales = torch.randint(118, 124, (rows, columns // 32), generator=GENERATOR).to(torch.uint8)
    whole = E2M1[codes] * _spread((scales.float() - 127).exp2(), 1, 32, matrix.shape)
    return {"weight_packed": _halves(codes), "weight_scale": scales}, whole


def gptq(matrix: Tensor, bits: int = 4, version: int = 1, *, order: bool = False) -> tuple[Tensors, Tensor]:
    rows, columns = matrix.shape
    group = 16
    levels = torch.randint(0, 1 << bits, (rows, columns), generator=GENERATOR)
    stored = torch.randint(0, 1 << bits, (columns // group, rows), generator=GENERATOR)
    scales = (torch.rand(columns // group, rows, generator=GENERATOR) * 0.02).half()
    index = torch.arange(columns) // group
    index = index[torch.randperm(columns, generator=GENERATOR)] if order else index
    own = {"qweight": _words(levels, bits).T.contiguous(), "qzeros": _words(stored, bits), "scales": scales}
    zeros = stored + (2 - version)
    whole = (scales[index].float() * (levels.T - zeros[index]).float()).T
    return own | {"g_idx": index.to(torch.int32)}, whole


def awq(matrix: Tensor) -> tuple[Tensors, Tensor]:
    rows, columns = matrix.shape
    order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
    levels = torch.randint(0, 16, (columns, rows), generator=GENERATOR)
    zeros = torch.randint(0, 16, (columns // 16, rows), generator=GENERATOR)
    scales = (torch.rand(columns // 16, rows, generator=GENERATOR) * 0.02).half()
    own = {
        name: _words(v.reshape(len(v), -1, 8)[:, :, order].reshape(v.shape), 4)
        for name, v in (("qweight", levels), ("qzeros", zeros))
    }
    spread = [values.repeat_interleave(16, 0) for values in (zeros, scales)]
    return own | {"scales": scales}, ((levels - spread[0]).float() * spread[1].float()).T


def bnb_int8(matrix: Tensor) -> tuple[Tensors, Tensor]:
    scale = matrix.float().abs().amax(1)
    stored = (matrix.float() / scale[:, None] * 127).round().to(torch.int8)
    own = {"weight": stored, "SCB": scale, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return own, stored * scale.view(-1, 1) * 7.874015718698502e-3


def bnb_four(matrix: Tensor, kind: str = "nf4", *, nested: bool = False) -> tuple[Tensors, Tensor]:
    rows, columns = matrix.shape
    table, block, outer = {"nf4": NF4, "fp4": FP4}[kind], 24, 16
    codes = torch.randint(0, 16, (rows * columns,), generator=GENERATOR)
    blocks = -(-codes.numel() // block)
    packed = (codes[::2] << 4 | codes[1::2]).to(torch.uint8).reshape(-1, 1)
    said: Tensors = {"quant_type": kind, "blocksize": block, "dtype": "bfloat16", "shape": [rows, columns]}
    own: Tensors = {"weight": packed, "weight.quant_map": table}
    absmax = torch.rand(blocks, generator=GENERATOR) * 0.1
    own["weight.absmax"] = absmax
    if nested:
        codes8 = torch.randint(0, 256, (blocks,), generator=GENERATOR)
        map8 = torch.linspace(-1, 1, 256)
        scales = torch.rand(-(-blocks // outer), generator=GENERATOR) * 0.01
        said |= {"nested_blocksize": outer, "nested_dtype": "float32", "nested_offset": 0.0625}
        absmax = map8[codes8] * scales.repeat_interleave(outer)[:blocks] + 0.0625
        own |= {
            "weight.absmax": codes8.to(torch.uint8),
            "weight.nested_absmax": scales,
            "weight.nested_quant_map": map8,
        }
    own[f"weight.quant_state.bitsandbytes__{kind}"] = torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)
    whole = table[codes] * absmax.repeat_interleave(block)[: codes.numel()]
    return own, whole.reshape(rows, columns)


@dataclass(frozen=True)
class Scheme:
    """A way to store matrices, and what config.json says of it."""

    pack: Pack
    words: Mapping[str, Any]
    upstream: bool = False  # whether llama.cpp's converter reads it and makes the same of it


def _compressed(form: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}}


INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 16}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 16}
FOUR = {"quant_method": "bitsandbytes", "load_in_4bit": True}

SCHEMES: Mapping[str, Scheme] = {
    "fp8 in blocks": Scheme(fp8_blocks, {"quant_method": "fp8", "weight_block_size": [32, 48]}, upstream=True),
    "fp8, one scale": Scheme(fp8_scalar, {"quant_method": "fp8", "activation_scheme": "static"}, upstream=True),
    "fp8 per channel": Scheme(
        fp8_channel, _compressed("float-quantized", num_bits=8, type="float", strategy="channel"), upstream=True
    ),
    "fp8 per tensor": Scheme(fp8_tensor, _compressed("float-quantized", num_bits=8, type="float", strategy="tensor")),
    "fp8 of fbgemm": Scheme(fp8_channel, {"quant_method": "fbgemm_fp8"}),
    "fp8 of ModelOpt": Scheme(fp8_tensor, {"quant_method": "modelopt", "quant_algo": "FP8"}, upstream=True),
    "int8": Scheme(
        int8_channel, _compressed("int-quantized", num_bits=8, type="int", strategy="channel"), upstream=True
    ),
    "int4": Scheme(pack_int4, _compressed("pack-quantized", **INT4), upstream=True),
    "int4 with zero points": Scheme(
        lambda m: pack_int4(m, zeros=True), _compressed("pack-quantized", **INT4, symmetric=False), upstream=True
    ),
    "int4 in act order": Scheme(
        lambda m: pack_int4(m, zeros=True, order=True), _compressed("pack-quantized", **INT4, actorder="group")
    ),
    "nvfp4": Scheme(
        nvfp4, _compressed("nvfp4-pack-quantized", num_bits=4, type="float", strategy="tensor_group", group_size=16)
    ),
    "mxfp4": Scheme(
        mxfp4, _compressed("mxfp4-pack-quantized", num_bits=4, type="float", strategy="group", group_size=32)
    ),
    "gptq": Scheme(gptq, GPTQ, upstream=True),
    "gptq, 8 bits": Scheme(lambda m: gptq(m, 8), {**GPTQ, "bits": 8}, upstream=True),
    "gptq, second format, act order": Scheme(
        lambda m: gptq(m, version=2, order=True),
        {**GPTQ, "checkpoint_format": "gptq_v2", "desc_act": True},
        upstream=True,
    ),
    "awq": Scheme(awq, {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"}),
    "bitsandbytes, 8 bits": Scheme(bnb_int8, {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    "bitsandbytes, nf4": Scheme(bnb_four, {**FOUR, "bnb_4bit_quant_type": "nf4"}),
    "bitsandbytes, nf4 twice": Scheme(
        lambda m: bnb_four(m, nested=True), {**FOUR, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    ),
    "bitsandbytes, fp4": Scheme(lambda m: bnb_four(m, "fp4"), {**FOUR, "bnb_4bit_quant_type": "fp4"}),
}


def packed(folder: Path, name: str) -> tuple[Path, dict[str, Tensor]]:
    """A tiny Llama with the matrices of its layers stored by a scheme, and what these are."""
    scheme, whole = SCHEMES[name], dict[str, Tensor]()
    tiny.tiny_llama(folder, layers=2)
    GENERATOR.manual_seed(7)

    def change(tensors: Tensors) -> Tensors:
        made: Tensors = {}
        for key, values in tensors.items():
            if not key.endswith("proj.weight"):
                made[key] = values
                continue
            own, whole[key] = scheme.pack(values)
            made |= {f"{key.removesuffix('weight')}{suffix}": v.contiguous().clone() for suffix, v in own.items()}
        return made

    edit_weights(folder, change)
    edit_config(folder, quantization_config=dict(scheme.words))
    return folder, whole


def as_float32(folder: Path, name: str, out: Path) -> Path:
    """The checkpoint of `packed` with whole matrices in float32, unquantized."""
    _, whole = packed(folder, name)
    tiny.tiny_llama(out, layers=2)
    edit_weights(out, lambda tensors: {key: whole.get(key, values).contiguous() for key, values in tensors.items()})
    return out
