"""Block types and mixes against the constants of llama.cpp's own Python package."""

from __future__ import annotations

import gguf
import pytest

from quantize.blocks import BY_ID, TYPES
from quantize.mixes import MIXES, QUANTIZATION_VERSION


@pytest.mark.parametrize("name", TYPES)
def test_sizes_and_ids_are_ggmls(name: str) -> None:
    kind, theirs = TYPES[name], gguf.GGMLQuantizationType[name]
    assert (kind.id, (kind.values, kind.bytes)) == (theirs.value, gguf.GGML_QUANT_SIZES[theirs])
    assert BY_ID[kind.id] is kind


def test_rows_are_whole_blocks() -> None:
    assert TYPES["Q8_0"].row_bytes(64) == 68
    assert not TYPES["Q8_0"].fits(172)
    with pytest.raises(ValueError, match="multiple of 32"):
        TYPES["Q8_0"].row_bytes(172)
    assert TYPES["Q4_K"].bits_per_value == 4.5


@pytest.mark.parametrize("name", MIXES)
def test_file_types_are_llama_cpps(name: str) -> None:
    theirs = gguf.LlamaFileType["ALL_F32" if name == "F32" else f"MOSTLY_{name}"]
    assert MIXES[name].file_type == theirs.value
    assert QUANTIZATION_VERSION == gguf.GGML_QUANT_VERSION


@pytest.mark.parametrize(
    ("mix", "name", "shape", "kind"),
    [
        ("Q8_0", "blk.0.ffn_up.weight", (128, 64), "Q8_0"),
        ("Q8_0", "token_embd.weight", (512, 64), "Q8_0"),
        ("Q8_0", "output.weight", (512, 64), "Q8_0"),
        ("Q8_0", "blk.0.ffn_down.weight", (64, 172), "F16"),  # 172 is no multiple of 32
        ("Q8_0", "blk.0.attn_q_norm.weight", (2, 64), "F32"),
        ("Q8_0", "blk.0.attn_norm.weight", (64,), "F32"),
        ("Q8_0", "blk.0.attn_q.bias", (64,), "F32"),
        ("Q8_0", "v.patch_embd.weight", (64, 3, 14, 14), "F32"),
        ("F16", "v.patch_embd.weight", (64, 3, 14, 14), "F16"),
        ("F16", "v.patch_embd.weight.1", (64, 3, 14, 14), "F16"),
        ("BF16", "v.patch_embd.weight.1", (64, 3, 14, 14), "F32"),
        ("F32", "blk.0.ffn_up.weight", (128, 64), "F32"),
        ("BF16", "blk.0.ffn_up.weight", (128, 64), "BF16"),
    ],
)
def test_types_of_tensors(mix: str, name: str, shape: tuple[int, ...], kind: str) -> None:
    choice = MIXES[mix].choose(name, shape)
    assert choice.type.name == kind
    assert choice.why
