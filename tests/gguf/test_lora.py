"""A LoRA as a GGUF adapter: the bytes of llama.cpp's own converter, and what has no place in such a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from convert.bundle import Role
from convert.formats.gguf.lora_stage import STAGE as stage
from convert.progress import Silent
from tests import processes, tiny
from tests.fixtures_adapters import adapter
from tests.fixtures_gguf import read_gguf, source_inputs
from tests.parity.families import cases
from tests.parity.upstream import HOW_TO_GET, compare, find_llama_cpp

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj")


def made(base: Path, folder: Path, out: Path, **options: Any) -> Path:
    """The stage as a pipeline runs it."""
    words, inputs = stage.Options(path=folder, **options), source_inputs(base)
    assert [str(p) for p in stage.check(words, inputs)] == []
    out.mkdir()
    (artifact,) = stage.run(words, inputs, out, Silent()).of(Role.ADAPTER)
    (promised,) = stage.forecast(words, inputs).of(Role.ADAPTER)
    assert (promised.path.name, promised.size) == (artifact.path.name, artifact.path.stat().st_size)
    return artifact.path


@pytest.mark.parametrize(
    ("family", "kind"), [("llama", "F16"), ("llama", "Q8_0"), ("qwen3_moe", "F32"), ("phi3", "F32"), ("gemma2", "BF16")]
)
def test_files_equal_upstreams(family: str, kind: str, tmp_path: Path) -> None:
    llama_cpp = find_llama_cpp()
    if llama_cpp is None:
        pytest.skip(HOW_TO_GET)
    base = cases()[family].make(tmp_path / "base")
    modules = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj") if family == "phi3" else ALL
    adapter(tmp_path / "Tiny-1B-Chat-v2", base, modules, r=32)
    theirs = tmp_path / "theirs.gguf"
    command = [
        sys.executable,
        str(llama_cpp / "convert_lora_to_gguf.py"),
        "--base",
        str(base),
        "--outtype",
        kind.lower(),
    ]
    command += ["--outfile", str(theirs), str(tmp_path / "Tiny-1B-Chat-v2")]
    done = processes.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    ours = made(base, tmp_path / "Tiny-1B-Chat-v2", tmp_path / "out", type=kind)
    assert [str(d) for d in compare(ours, theirs)] == []


@pytest.mark.parametrize(
    ("words", "alpha"),
    [({"lora_alpha": 6}, 6), ({"use_rslora": True, "lora_alpha": 6}, 12), ({"alpha_pattern": {"q_proj": 80}}, 8)],
)
def test_products_are_what_the_adapter_says(words: dict[str, Any], alpha: float, tmp_path: Path) -> None:
    """alpha / rank * B @ A, the only thing llama.cpp computes; rows of q are those of its rotation."""
    base = tiny.tiny_llama(tmp_path / "base")
    low = adapter(tmp_path / "a", base, ("q_proj", "up_proj"), **words)
    fields, tensors = read_gguf(made(base, tmp_path / "a", tmp_path / "out", type="F32"))
    assert fields["adapter.lora.alpha"] == alpha
    for name, place in (("ffn_up", "mlp.up_proj"), ("attn_q", "self_attn.q_proj")):
        a, b = (tensors[f"blk.1.{name}.weight.lora_{x}"].data for x in "ab")
        ours = alpha / 4 * (b @ a)
        module = f"model.layers.1.{place}"
        factor = {"use_rslora": 3, "alpha_pattern": 20 if name == "attn_q" else 2}.get(next(iter(words)), 1.5)
        wanted = (factor * (low[f"{module}.lora_B.weight"] @ low[f"{module}.lora_A.weight"])).numpy()
        if name == "attn_q":
            wanted = wanted.reshape(4, 2, 8, 64).swapaxes(1, 2).reshape(64, 64)
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)


def test_matrices_stored_the_other_way_round(tmp_path: Path) -> None:
    base = cases()["gpt2"].make(tmp_path / "base")
    low = adapter(tmp_path / "a", base, ("attn.c_attn",), fan_in_fan_out=True)
    _, tensors = read_gguf(made(base, tmp_path / "a", tmp_path / "out", type="F32"))
    module = next(name.partition(".lora_")[0] for name in low if ".h.0." in f".{name}")
    a, b = (tensors[f"blk.0.attn_qkv.weight.lora_{x}"].data for x in "ab")
    wanted = low[f"{module}.lora_B.weight"] @ low[f"{module}.lora_A.weight"]
    np.testing.assert_allclose(b @ a, wanted.numpy(), rtol=1e-5, atol=1e-6)


ONE = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("more", "words", "message"),
    [
        ({}, {"use_dora": True}, "has lengths of rows (DoRA), of model.layers.0.self_attn.q_proj and 1 more"),
        ({"model.norm.weight": (64,)}, {}, "has whole tensors, of model.norm.weight"),
        (
            {f"{ONE}.lora_B.bias": (128,), f"{ONE}.lora_A.weight": (4, 64), f"{ONE}.lora_B.weight": (128, 4)},
            {},
            "has biases",
        ),
        (
            {"x.y.lora_A.weight": (4, 64), "x.y.lora_B.weight": (9, 4)},
            {},
            "changes x.y of rank 4, [9, 4] by [4, 64], and",
        ),
        (
            {f"{ONE}.lora_A.weight": (4, 64), f"{ONE}.lora_B.weight": (64, 4)},
            {},
            f"{ONE}: lora_A [4, 64] and lora_B [64, 4] of rank 4 make [64, 64], config.json says [128, 64]",
        ),
    ],
)
def test_what_has_no_place_is_refused(
    more: dict[str, Any], words: dict[str, Any], message: str, tmp_path: Path
) -> None:
    base = tiny.tiny_llama(tmp_path / "base")
    adapter(tmp_path / "a", base, ("q_proj",), {n: torch.ones(s) for n, s in more.items()}, **words)
    (problem,) = stage.check(stage.Options(path=tmp_path / "a"), source_inputs(base))
    assert message in str(problem)


def test_some_experts_of_a_layer_are_no_file(tmp_path: Path) -> None:
    base = tiny.tiny_qwen3_moe(tmp_path / "base")
    adapter(tmp_path / "a", base, ("experts.1.up_proj",))
    (problem,) = stage.check(stage.Options(path=tmp_path / "a"), source_inputs(base))
    assert "changes 1 of the 8 experts of blk.0.ffn_up_exps.weight" in str(problem)
