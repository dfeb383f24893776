"""The fp8 and compressed stages: what is written, under which names, and what is refused before anything is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from convert.errors import ConvertError
from convert.formats.compressed.against import missing, tensor_pairs
from convert.formats.compressed.compressed_stage import STAGE as compressed
from convert.formats.compressed.existing import recognize
from convert.formats.compressed.folder import values
from convert.formats.compressed.fp8_stage import STAGE as fp8
from convert.formats.compressed.straight import CompressedScheme, StraightLayout, ignored, write_weights
from convert.source.checkpoint import open_checkpoint, open_tensors
from quantize import e4m3
from quantize.gptq_layout import Decision
from quantize.presets import FP8_TENSOR, PRESETS, Preset, with_group
from tests import tiny
from tests.fixtures_gptq import NANO, source_bundle
from tests.hostile import edit_config
from tests.parity.families import cases

PRESET_NAMES = [*PRESETS, "FP8_TENSOR"]


def preset(name: str) -> Preset:
    return {**PRESETS, "FP8_TENSOR": FP8_TENSOR}[name]


def written(source: Path, out: Path, chosen: Preset) -> Path:
    """The folder's weights and config.json, without the check that loads it again."""
    out.mkdir(parents=True)
    layout = StraightLayout(open_checkpoint(source), CompressedScheme.of(chosen))
    layout.check()
    write_weights(out, layout)
    config = dict(layout.checkpoint.config) | {"quantization_config": layout.quantization}
    (out / "config.json").write_text(json.dumps(config))
    shutil.copyfile(source / "tokenizer.json", out / "tokenizer.json")
    return out


def tensors(folder: Path) -> dict[str, Any]:
    """Name -> torch tensor."""
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_the_demo_model_in_every_scheme(name: str, tmp_path: Path) -> None:
    """Kept tensors are the source's, under its names; decoded ones lose what the scheme loses; it is known again."""
    folder = written(NANO, tmp_path / "made", preset(name))
    import torch

    source, made = tensors(NANO), tensors(folder)
    kept = [n for n in source if n in made and f"{n}_scale" not in made]
    assert {"lm_head.weight", "model.embed_tokens.weight", "visual.blocks.0.attn.qkv.weight"} <= set(kept)
    for tensor in kept:
        assert torch.equal(source[tensor], made[tensor]), tensor
    pairs = {pair.name: pair for pair in tensor_pairs([folder / "model.safetensors"], NANO)}
    assert len(pairs) == len(source)
    quantized = [pair for pair in pairs.values() if pair.type in ("F8_E4M3", name)]
    assert len(quantized) == 4 * 7
    for pair in quantized:
        ((mine, own),) = pair.pieces(1)
        error = np.sqrt(((mine - own) ** 2).sum() / (own**2).sum())
        assert error < {8: 0.04, 4: 0.14}[preset(name).bits], pair.name
    assert all(h.wanted == h.got for h in missing([folder / "model.safetensors"], NANO))
    found = recognize(folder, None)
    kind = "fp8/F8_E4M3" if name.startswith("FP8") else f"compressed/{name}"
    assert found is not None
    assert [artifact.kind for artifact in found.weights] == [kind]


def test_a_scale_a_matrix_is_the_bytes_it_always_was(tmp_path: Path) -> None:
    import torch

    source = tensors(tiny.tiny_llama(tmp_path / "Tiny"))
    made = tensors(written(tmp_path / "Tiny", tmp_path / "made", FP8_TENSOR))
    name = "model.layers.0.mlp.up_proj.weight"
    scale = (source[name].float().abs().max() / 448).to(source[name].dtype).reshape(1)
    wanted = (source[name].float() / scale.float()).clamp(-448, 448).to(torch.float8_e4m3fn)
    assert torch.equal(made[f"{name}_scale"], scale)
    assert torch.equal(made[name].view(torch.uint8), wanted.view(torch.uint8))


def overall(folder: Path, module: str) -> float:
    return float(tensors(folder)[f"{module}.weight_global_scale"][0])


def largest(folder: Path, *modules: str) -> float:
    return max(float(np.abs(values(open_tensors(folder)[f"{m}.weight"])).max()) for m in modules)


def test_matrices_that_a_server_computes_as_one_share_a_global_scale(tmp_path: Path) -> None:
    source = cases()["mixtral"].make(tmp_path / "Tiny")
    folder = written(source, tmp_path / "made", PRESETS["NVFP4"])
    attention = [f"model.layers.1.self_attn.{word}_proj" for word in "qkv"]
    expert = [f"model.layers.1.block_sparse_moe.experts.2.{word}" for word in ("w1", "w3")]
    for group in (attention, expert):
        wanted = np.float32(448 * 6) / np.float32(largest(source, *group))
        assert [overall(folder, module) for module in group] == [wanted] * len(group)
    alone = "model.layers.1.block_sparse_moe.experts.2.w2"
    assert overall(folder, alone) == np.float32(448 * 6) / np.float32(largest(source, alone))


def test_latent_projections_share_it_too_and_routers_are_kept(tmp_path: Path) -> None:
    source = cases()["deepseek2, V3"].make(tmp_path / "Tiny")
    layout = StraightLayout(open_checkpoint(source), CompressedScheme.of(PRESETS["W8A8"]))
    attention = "model.layers.0.self_attn."
    wanted = (f"{attention}q_a_proj", f"{attention}kv_a_proj_with_mqa")
    assert layout.together[wanted[0]] == layout.together[wanted[1]] == wanted
    assert f"{attention}kv_b_proj" in layout.decision.quantized
    assert "model.layers.1.mlp.gate" in layout.decision.kept
    assert list(layout.exclusions) == ["re:(?:.*\\.)?lm_head$", "re:.*\\.mlp\\.gate$"]


def test_a_module_whose_pattern_would_match_others_is_named_in_full() -> None:
    decision = Decision(("model.layers.0.mlp.up_proj",), ("model.layers.1.mlp.up_proj", "lm_head", "score.weights"))
    assert ignored(decision, (), "lm_head") == (
        "re:(?:.*\\.)?lm_head$",
        "model.layers.1.mlp.up_proj",
        "score.weights",
    )
    assert ignored(Decision((), ()), ("visual",), "embed_out") == (
        "re:(?:.*\\.)?(?:lm_head|embed_out)$",
        "re:(?:.*\\.)?visual\\..*",
    )


def test_scales_of_blocks_are_those_of_the_blocks(tmp_path: Path) -> None:
    folder = written(NANO, tmp_path / "made", PRESETS["FP8_BLOCK"])
    module = "model.layers.0.mlp.up_proj"
    weight, scales = (tensors(folder)[f"{module}.{word}"] for word in ("weight", "weight_scale"))
    assert weight.shape == (768, 256)
    assert scales.shape == (6, 2)
    matrix = values(open_tensors(NANO)[f"{module}.weight"])
    wanted = np.abs(matrix.reshape(6, 128, 2, 128)).max((1, 3)) / e4m3.LARGEST
    np.testing.assert_allclose(scales.float().numpy(), wanted, rtol=2**-8)


# ---- what is refused


@pytest.mark.parametrize(
    ("case", "words", "said"),
    [
        ("gpt_oss", {"scheme": "W8A8"}, "holds all experts of a layer in one tensor"),
        ("granitemoe", {"scheme": "W8A8"}, "input_linear.weight holds all experts"),
        ("gpt2", {"scheme": "NVFP4"}, "stored with inputs before outputs"),
        ("llama", {"scheme": "W4A16"}, "64 input columns, which is not a multiple of 128; group_size: 64, or another"),
        ("llama", {"scheme": "FP8_BLOCK"}, "64 input columns, which is not a multiple of 128; another scheme than FP8"),
        ("deepseek2, V3", {"scheme": "MXFP4"}, "not a multiple of 32; another scheme than MXFP4"),
    ],
)
def test_what_cannot_work_is_a_problem_of_the_plan(case: str, words: dict[str, Any], said: str, tmp_path: Path) -> None:
    inputs = {"source": source_bundle(cases()[case].make(tmp_path / "Tiny"))}
    problems = compressed.check(compressed.Options(**words), inputs)
    assert said in str(problems[0])


def test_rows_that_fill_no_block_are_refused_where_a_server_puts_others_below(tmp_path: Path) -> None:
    source = tiny.tiny_llama(tmp_path / "Tiny", hidden=128, heads=2, kv_heads=1, intermediate_size=256)
    inputs = {"source": source_bundle(source)}
    problems = fp8.check(fp8.Options(scheme="block"), inputs)
    assert "64 rows, which is not a multiple of 128, and servers put other rows below" in str(problems[0])


def test_group_sizes_are_for_schemes_that_have_them() -> None:
    assert compressed.Options(scheme="W4A16", group_size=32).preset == with_group(PRESETS["W4A16"], 32)
    with pytest.raises(ValidationError, match="group_size is for W8A16 and W4A16: the groups of NVFP4 are fixed"):
        compressed.Options(scheme="NVFP4", group_size=32)


def test_a_matrix_that_is_not_finite_is_named(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    source = tiny.tiny_llama(tmp_path / "Tiny")
    edit_config(source, torch_dtype="float32")
    tensors = {n: values(t).astype(np.float32) for n, t in open_tensors(source).items()}
    tensors["model.layers.1.self_attn.k_proj.weight"][1, 2] = np.nan
    save_file(tensors, source / "model.safetensors")
    assert load_file(source / "model.safetensors")
    for name in ("FP8_DYNAMIC", "NVFP4", "W8A8"):
        with pytest.raises(ConvertError, match=r"layers\.1\.self_attn\.k_proj\.weight.*not finite"):
            written(source, tmp_path / name, PRESETS[name])
