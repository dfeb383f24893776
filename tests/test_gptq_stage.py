"""GPTQ and AWQ from a checkpoint to the finished folder: its tensors, its companions, and who catches what is wrong.

Every folder here was already loaded by transformers in a fresh process: the stage does that before it hands one on.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert import load_recipe, plan, run
from convert.bundle import Role
from convert.errors import StageError
from convert.formats.compressed import folder_stage as _folder
from convert.formats.compressed.folder import canonical
from convert.formats.compressed.fp8_stage import STAGE as fp8
from convert.formats.compressed.gptq_stage import STAGE as gptq
from convert.progress import Silent
from tests import processes, tiny
from tests.fixtures_gptq import (
    ENVIRONMENT,
    GROUP,
    LINEAR,
    NANO,
    STAGES,
    edit_config,
    families,
    inputs,
    library_products,
    modules,
    options,
    own_reader,
    quantized,
    seeing,
    source_bundle,
    tensors,
    unpack_awq,
    unpack_gptq,
)

__all__ = ["families", "seeing"]
FAMILIES = ("llama", "mistral", "phi3", "qwen2", "qwen3")
COMPANIONS = {
    *("config.json", "quantize_config.json", "generation_config.json", "model.safetensors"),
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"),
    *("chat_template.json", "chat_template.jinja", "preprocessor_config.json", "processor_config.json"),
}
Families = Callable[[str], tuple[Path, Path, dict[str, Any]]]


# ---- what is in the folder


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_quantized_where_it_should_be_and_the_rest_is_the_sources(
    family: str, families: Families
) -> None:
    source_folder, folder, words = families(family)
    source, made = tensors(source_folder), tensors(folder)
    matrices = {name.removesuffix(".weight") for name in source if LINEAR.search(name.removesuffix(".weight"))}
    assert modules(made).keys() == matrices
    assert folder.name == f"Tiny-GPTQ-Int{words['bits']}"
    for name, parts in modules(made).items():
        weight = source[f"{name}.weight"]
        error = np.abs(unpack_gptq(parts, words["bits"]) - weight).mean() / np.abs(weight).mean()
        assert error < 1.5 / (1 << words["bits"] - 1), name
        if f"{name}.bias" in source:
            np.testing.assert_allclose(made[f"{name}.bias"], source[f"{name}.bias"], rtol=1e-3)
    for name in source.keys() - {f"{m}.{part}" for m in matrices for part in ("weight", "bias")}:
        np.testing.assert_array_equal(made[name], source[name], name)


def test_awq_of_fused_matrices_puts_them_together_and_its_factors_into_the_norms(families: Families) -> None:
    """gptqmodel takes Phi-3's gate_up_proj apart, and its own table for Phi-3 makes AWQ give up."""
    source_folder, folder, _ = families("phi3-awq")
    source, made = tensors(source_folder), tensors(folder)
    norms = {"qkv_proj": "input_layernorm", "gate_up_proj": "post_attention_layernorm"}
    seen = 0
    for name, parts in modules(made).items():
        if norm := norms.get(name.rpartition(".")[2]):
            key = re.sub(r"(layers\.\d+)\..*", rf"\1.{norm}.weight", name)
            weight = source[f"{name}.weight"] / (made[key] / source[key])
            assert np.abs(unpack_awq(parts, 32) - weight).mean() < 0.15 * np.abs(weight).mean(), name
            seen += 1
    assert seen == 4
    assert any((made[n] != source[n]).any() for n in source if n.endswith("layernorm.weight"))


def test_our_unpacking_gives_the_librarys_products(seeing: dict[str, Path], families: Families) -> None:
    """Both methods; 3, 4 and 8 bits, with and without zero points, in and out of order, one group and many."""
    named = {name: families(name) for name in FAMILIES}
    folders = [seeing["gptq"], seeing["awq"], *(folder for _, folder, _ in named.values())]
    bits = [4, 0, *(words["bits"] for _, _, words in named.values())]
    for folder, wanted, width in zip(folders, library_products(*folders), bits, strict=True):
        found = {canonical(name): parts for name, parts in modules(tensors(folder)).items()}
        products = {canonical(name): product for name, product in wanted.items()}
        assert found.keys() == products.keys(), "modules that are not quantized there"
        for name, parts in found.items():
            weight = unpack_gptq(parts, width) if width else unpack_awq(parts, 128)
            got = inputs(weight.shape[1]) @ weight.T + parts.get("bias", np.float16(0)).astype(np.float32)
            loose = 2e-2 if not width else 2e-3  # the AWQ kernel multiplies in float16
            np.testing.assert_allclose(got, products[name], atol=loose * np.abs(got).max(), err_msg=f"{folder}: {name}")


@pytest.mark.parametrize("method", STAGES)
def test_the_tower_is_the_sources_and_the_companions_are_complete(method: str, seeing: dict[str, Path]) -> None:
    folder = seeing[method]
    source, made = tensors(NANO), {canonical(name): t for name, t in tensors(folder).items()}
    tower = [name for name in source if "visual" in name] + ["lm_head.weight", "model.embed_tokens.weight"]
    assert len(tower) > 40
    for name in tower:
        np.testing.assert_array_equal(made[canonical(name)], source[name], name)
    assert {path.name for path in folder.iterdir()} == COMPANIONS
    assert (folder / "preprocessor_config.json").read_bytes() == (NANO / "preprocessor_config.json").read_bytes()
    config = json.loads((folder / "config.json").read_text())
    quantization = config.pop("quantization_config")
    assert config == json.loads((NANO / "config.json").read_text())
    assert quantization == json.loads((folder / "quantize_config.json").read_text())
    assert quantization["modules_to_not_convert"] == ["lm_head", "model.visual", "visual"]
    assert len(quantization["meta"]["calibration"]["sha256"]) == 64
    assert folder.name == {"gptq": "fara-nano-GPTQ-Int4", "awq": "fara-nano-AWQ"}[method]


def test_gptqmodels_own_loader_finds_every_tensor(families: Families, tmp_path: Path) -> None:
    from validate.runtimes import gptqmodel

    # of folders without zero points: it takes those with some where it made them itself
    folders = [families(name)[1] for name in ("llama", "mistral", "qwen2")]
    for folder, found in zip(folders, own_reader(tmp_path, *folders), strict=True):
        with gptqmodel.GptqModelSession(folder, 1) as session:
            wanted = session.logits(range(16))
        assert np.abs(found["logits"][0] - wanted).mean() < 0.05 * np.abs(wanted).mean()


# ---- what it is worth


def round_to_nearest(weight: Any, group_size: int, symmetric: bool) -> Any:
    """4 bits by the textbook: the largest value of a group decides its scale."""
    rows, columns = weight.shape
    x = weight.reshape(rows, columns // group_size, group_size)
    high, low = x.amax(-1, keepdim=True).clamp(min=0), x.amin(-1, keepdim=True).clamp(max=0)
    if symmetric:
        scale, zero = 2 * x.abs().amax(-1, keepdim=True) / 15, 8
    else:
        scale = (high - low) / 15
        zero = (-low / scale).round()
    return (((x / scale).round() + zero).clamp(0, 15) - zero).mul(scale).reshape(rows, columns)


@pytest.mark.parametrize("method", STAGES)
def test_it_drifts_less_than_rounding_to_nearest(method: str, seeing: dict[str, Path]) -> None:
    import torch

    from validate import drift, runtimes
    from validate.runtimes import gptqmodel, transformers

    with transformers.RUNTIME.open(NANO, threads=1) as reference:
        text = (NANO / "heldout/text.txt").read_text(encoding="utf-8")
        tokens = reference.tokenize(text)[: 4 * 256]
        windows = [tokens[i : i + 256] for i in range(0, len(tokens), 256)]
        wanted = [reference.logits(window) for window in windows]

        def kl(session: Any) -> float:
            pairs = zip(wanted, windows, strict=True)
            return float(np.concatenate([drift.kl(a, session.logits(w)) for a, w in pairs]).mean())

        with runtimes.open_session(gptqmodel.RUNTIME, seeing[method] / "model.safetensors", threads=1) as candidate:
            ours = kl(candidate)
        with torch.no_grad():
            for name, module in reference.model.named_modules():
                if LINEAR.search(name) and ".visual." not in name:
                    module.weight.copy_(round_to_nearest(module.weight, 128, symmetric=method == "gptq"))
        assert 0 < ours < 0.85 * kl(reference)


# ---- who catches what


def reload_check(folder: Path, work: Path) -> None:
    """The stage's own check of a finished folder; raises as it does."""
    work.mkdir()
    source, chosen = source_bundle(NANO), options("awq", work)
    layout = _folder.layout_of(source, chosen.scheme)
    _folder.check_reload(_folder.Job(chosen, source, layout, folder, work, work / "kept", Silent()))


def test_a_vision_tower_that_readers_would_convert_is_caught(seeing: dict[str, Path], tmp_path: Path) -> None:
    """transformers loads the second of these with weights made up for the projector, and says so in a warning only."""
    folder = tmp_path / "fara-nano-AWQ"
    shutil.copytree(seeing["awq"], folder)
    edit_config(folder, modules_to_not_convert=None)
    with pytest.raises(StageError, match="`out_features`: 340 must be divisible"):
        reload_check(folder, tmp_path / "all")
    edit_config(folder, modules_to_not_convert=["lm_head", "visual.blocks", "model.visual.blocks"])
    with pytest.raises(StageError) as caught:
        reload_check(folder, tmp_path / "merger")
    said = str(caught.value)
    for part in (
        "missing keys: 'model.visual.merger",
        "unexpected keys: 'model.visual.merger",
        "as quantized: 'visual.m",
    ):
        assert part in said


RECIPE = """
name: r
model: {{path: Tiny}}
stages:
  four: {{use: gptq, bits: 4, group_size: 32, threads: 1, calibration: {{text: {text}, samples: 8, length: 32}}}}
"""


def test_a_killed_run_leaves_nothing_under_a_final_name_and_the_next_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.tiny_llama(tmp_path / "Tiny", layers=4)
    (tmp_path / "text.txt").write_text("\n".join(tiny._text()), encoding="utf-8")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE.format(text="text.txt"), encoding="utf-8")
    command = [sys.executable, "-m", "convert", "run", str(recipe), "--out", str(tmp_path / "out")]
    home = tmp_path / "out/r"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    layers = home / ".convert/gptq-layers"
    with processes.started(command, env={**os.environ, **ENVIRONMENT}, **quiet) as process:
        deadline = time.monotonic() + 120
        while not list(layers.glob("*/*/*.0.safetensors")):  # the first layer is made
            assert process.poll() is None, "it was done before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (home / "four").exists()
    (kept,) = layers.glob("*/*")
    first = kept / "model.layers.0.safetensors"
    before = first.stat().st_mtime_ns
    result = run(plan(load_recipe(recipe), tmp_path / "out"))
    assert "four" in result.ran
    made = home / "four/Tiny-GPTQ-Int4/model.safetensors"
    assert not list(home.glob("*.partial"))
    assert not first.exists(), "what was kept goes when the folder is there"
    anew = tmp_path / "anew"
    monkeypatch.setattr(_folder, "check_reload", lambda job: None)
    run(plan(load_recipe(recipe), anew))
    assert made.read_bytes() == (anew / "r/four/Tiny-GPTQ-Int4/model.safetensors").read_bytes()
    assert before


@pytest.mark.parametrize("method", STAGES)
def test_a_model_of_experts_is_quantized_and_comes_back(method: str, tmp_path: Path) -> None:
    source_folder = tiny.tiny_qwen3_moe(tmp_path / "Tiny")
    folder = quantized(method, source_folder, tmp_path)
    source, made = tensors(source_folder), tensors(folder)
    experts = [name for name in modules(made) if ".experts." in name]
    assert len(experts) == sum(".experts." in name for name in source)
    assert not any(name.endswith("mlp.gate") for name in modules(made)), "a router stays as it is"
    unpack = unpack_awq if method == "awq" else lambda parts, group: unpack_gptq(parts, 4)
    name = next(n for n in experts if n.endswith("up_proj"))
    weight, got = source[f"{name}.weight"], unpack(modules(made)[name], GROUP)
    gain = (weight * got).sum(1) / (got * got).sum(1)  # AWQ's factors, which down_proj takes
    assert np.abs(got * gain[:, None] - weight).mean() < 0.15 * np.abs(weight).mean()


# ---- FP8


def test_fp8_is_the_checkpoint_in_eight_bits_and_comes_back_as_the_model(tmp_path: Path) -> None:
    """Written straight from the source; each value within half a step of E4M3, which has three bits of fraction."""
    import torch
    from safetensors.torch import load_file

    source_folder = tiny.tiny_qwen2_5_vl(tmp_path / "Tiny")
    out = tmp_path / "out"
    out.mkdir()
    inputs = {"source": source_bundle(source_folder)}
    bundle = fp8.run(fp8.Options(threads=1), inputs, out, Silent())
    folder = bundle.of(Role.WEIGHTS)[0].path.parent
    assert folder.name == "Tiny-FP8-dynamic"
    assert [path.name for path in out.iterdir()] == [folder.name]
    source = {canonical(name): t for name, t in load_file(source_folder / "model.safetensors").items()}
    made = {canonical(name): t for name, t in load_file(folder / "model.safetensors").items()}
    eight = {name for name, t in made.items() if t.dtype == torch.float8_e4m3fn}
    assert eight == {name for name in source if LINEAR.search(name.removesuffix(".weight")) and "visual" not in name}
    for name, stored in source.items():
        if name not in eight:
            assert torch.equal(made[name], stored), name
            continue
        weight, scale = stored.float(), made[f"{name}_scale"].float()
        error = (made[name].float() * scale - weight).abs()
        assert (error <= torch.maximum(weight.abs() / 16, scale / 1024) * 1.001).all(), name
    forecast = fp8.forecast(fp8.Options(), inputs)
    assert [a.path.name for a in forecast.of(Role.WEIGHTS)] == [a.path.name for a in bundle.of(Role.WEIGHTS)]


# ---- what is refused before anything runs


@pytest.mark.parametrize(
    ("make", "words", "said"),
    [
        (tiny.tiny_llama, {"group_size": 128}, "not a multiple of group_size 128"),
        (tiny.tiny_llama, {"calibration": {"text": "absent.txt"}}, "no file absent.txt"),
        (tiny.tiny_llama, {"calibration": {"text": "text.txt", "length": 4096}}, "at most the model's 512"),
        (tiny.tiny_llama, {"calibration": {"screens": "clicks.jsonl"}}, "takes no images"),
        (tiny.tiny_llama, {"calibration": {"chat": "chat.jsonl"}}, "chat.jsonl:2: not a conversation"),
    ],
)
def test_what_cannot_work_is_a_problem_of_the_plan(
    make: Callable[..., Path], words: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("some text")
    Path("clicks.jsonl").write_text('{"image": "a.png", "instruction": "x", "target": [0, 0, 1, 1]}\n')
    Path("chat.jsonl").write_text('{"messages": [{"role": "user", "content": "hi"}]}\n{"messages": 7}\n')
    (problem,) = gptq.check(options("gptq", tmp_path, **words), {"source": source_bundle(make(tmp_path / "Tiny"))})
    assert said in str(problem)
