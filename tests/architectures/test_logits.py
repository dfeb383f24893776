"""What the other types of files are for: llama.cpp computes nearly what transformers computes (F32: tests/parity)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convert.bundle import Role
from tests import tiny
from tests.fixtures_gguf import convert
from tests.parity.build import sharpened
from validate.runtimes import llama_cpp
from validate.runtimes import transformers as reference


def test_logits_of_every_type_equal_transformers(tmp_path: Path) -> None:
    folder = sharpened(tiny.tiny_qwen2(tmp_path / "tiny"))
    bundle = convert(folder, tmp_path / "out", "F32", "BF16", "Q8_0")
    tokens = np.random.default_rng(0).integers(3, 300, 160).tolist()
    with reference.RUNTIME.open(folder) as session:
        wanted = session.logits(tokens)
    largest = {}
    for artifact in bundle.of(Role.WEIGHTS):
        with llama_cpp.RUNTIME.open(artifact.path) as session:
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
    with reference.RUNTIME.open(folder) as session:
        wanted = session.image_embeddings(pixels)
    (weights,), (projector,) = bundle.of(Role.WEIGHTS), bundle.of(Role.PROJECTOR)
    with llama_cpp.RUNTIME.open(weights.path, projector=projector.path) as session:
        got = session.image_embeddings(pixels)
    assert got.shape == wanted.shape == (88, 64)
    assert np.abs(got - wanted).max() / wanted.std() < tolerance
