"""What a plan says that running the source takes, before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convert.bundle import Artifact, Bundle, Model, Role
from convert.model.memory_needs import GB, LIBRARIES, Passes, reference_needs
from tests.validate.test_memory import header

HIDDEN, INNER, VOCABULARY = 3584, 18944, 152064  # Qwen2.5-7B


@pytest.fixture
def seven(tmp_path: Path) -> Bundle:
    """The headers of a checkpoint of 7.6e9 weights."""
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": HIDDEN, "vocab_size": VOCABULARY}))
    tensors = {"model__embed_tokens__weight": ("BF16", [VOCABULARY, HIDDEN])}
    for layer in range(28):
        for name, shape in (("q", [HIDDEN, HIDDEN]), ("up", [INNER, HIDDEN]), ("down", [HIDDEN, INNER])):
            tensors[f"model__layers__{layer}__{name}"] = ("BF16", shape)
    path = header(tmp_path / "model.safetensors", **tensors, lm_head__weight=("BF16", [VOCABULARY, HIDDEN]))
    weights = Artifact("safetensors", path, 15 * GB)
    config = Artifact("json", tmp_path / "config.json", 1)
    return Bundle(Model("Seven"), {Role.WEIGHTS: (weights,), Role.CONFIG: (config,)})


def test_a_7b_takes_its_head_and_logits_of_two_windows(seven: Bundle) -> None:
    needs = reference_needs(seven, passes=Passes(2048, 512))
    head, logits, handed = 4 * HIDDEN * VOCABULARY, 4 * 512 * VOCABULARY, 4 * HIDDEN * 2048
    assert needs.memory_bytes == LIBRARIES + head + head // 4 + 2 * logits + 2 * handed
    assert needs.memory_bytes < 6 * GB
    assert needs.scratch_bytes == 2 * handed, "how far the passes are, once more while it is written"


def test_many_tokens_are_handed_on_in_files(seven: Bundle) -> None:
    few, many = (reference_needs(seven, passes=Passes(tokens)) for tokens in (1 << 17, 1 << 20))
    assert many.memory_bytes == few.memory_bytes
    assert many.scratch_bytes == 8 * few.scratch_bytes == 4 * 4 * HIDDEN << 20
