"""What the files are for: llama.cpp computes what transformers computes, for every family and every scaling."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.bundle import Role
from tests import tiny
from tests.fixtures_gguf import LLAMA3_ROPE, convert, edit_weights
from validate.runtimes import llama_cpp
from validate.runtimes import transformers as reference

YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}


def llama(**words: Any) -> Callable[[Path], Path]:
    return lambda folder: tiny.tiny_llama(folder, **words)


MODELS: dict[str, Callable[[Path], Path]] = {
    "llama": llama(),
    "llama with biases, untied, heads of their own size": llama(
        tied=False, attention_bias=True, mlp_bias=True, head_dim=32
    ),
    "llama3 scaling": llama(rope_scaling=LLAMA3_ROPE),
    "linear scaling": llama(rope_scaling={"type": "linear", "factor": 4.0}),
    "yarn": llama(rope_scaling=YARN),
    "yarn with its own attention factor": llama(rope_scaling={**YARN, "attention_factor": 0.7}),
    "mistral": llama(architectures=["MistralForCausalLM"], model_type="mistral"),
    "qwen2": tiny.tiny_qwen2,
    "qwen2, tied": lambda folder: tiny.tiny_qwen2(folder, tied=True),
    "qwen3": tiny.tiny_qwen3,
    "qwen3-moe": tiny.tiny_qwen3_moe,
    "qwen2.5-vl": tiny.tiny_qwen2_5_vl,
}


def sharpen(tensors: dict[str, Any]) -> None:
    """Random weights attend to everything alike, and wrong positions go unnoticed; these do not.

    The embedding grows so that epsilon is lost beside it: llama.cpp's qwen2vl graph takes 0 for it.
    """
    sharp = ("q_proj.weight", "k_proj.weight", "q_norm.weight", "embed_tokens.weight")
    for name in [name for name in tensors if name.endswith(sharp)]:
        tensors[name] *= 12


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_transformers(name: str, tmp_path: Path) -> None:
    folder = MODELS[name](tmp_path / "tiny")
    edit_weights(folder, sharpen)
    bundle = convert(folder, tmp_path / "out", "F32", "BF16", "Q8_0")
    tokens = np.random.default_rng(0).integers(3, 300, 160).tolist()
    with reference.open(folder) as session:
        wanted = session.logits(tokens)
    assert np.ptp(wanted.argmax(1)) > 50  # it says something
    largest = {}
    for artifact in bundle.of(Role.WEIGHTS):
        with llama_cpp.open(artifact.path) as session:
            largest[artifact.type] = np.abs(session.logits(tokens) - wanted).max() / wanted.std()
    # BF16 is lossless here, but llama.cpp then rounds activations too
    assert largest["F32"] < 2e-3
    assert largest["F32"] < largest["BF16"] < 1.5
    assert largest["F32"] < largest["Q8_0"] < 1.5


@pytest.mark.parametrize(("kind", "tolerance"), [("F32", 2e-3), ("F16", 2e-3), ("BF16", 1e-2), ("Q8_0", 3e-2)])
def test_image_embeddings_equal_transformers(kind: str, tolerance: float, tmp_path: Path) -> None:
    folder = tiny.tiny_qwen2_5_vl(tmp_path / "tiny", layers=1)
    bundle = convert(folder, tmp_path / "out", "F32", mmproj=kind)
    # 22 x 16 patches: more than one window of 8 x 8 each way, the last ones cut
    pixels = np.random.default_rng(1).integers(0, 255, (224, 308, 3), dtype=np.uint8)
    with reference.open(folder) as session:
        wanted = session.image_embeddings(pixels)
    (weights,), (projector,) = bundle.of(Role.WEIGHTS), bundle.of(Role.PROJECTOR)
    with llama_cpp.open(weights.path, projector=projector.path) as session:
        got = session.image_embeddings(pixels)
    assert got.shape == wanted.shape == (88, 64)
    assert np.abs(got - wanted).max() / wanted.std() < tolerance
