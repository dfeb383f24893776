"""What config.json promises of a GPTQ or AWQ folder, held against the tensors beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convert.formats.compressed.against import missing
from tests import tiny

MODULE = "model.layers.0.mlp.up_proj"  # 128 rows, 64 columns


def quantized(folder: Path, method: str, **words: Any) -> Path:
    """One matrix in groups of 32 columns, and what config.json says of it."""
    import torch
    from safetensors.torch import save_file

    rows, columns, group = 128, 64, 32
    packed = (columns // 8, rows) if method == "gptq" else (columns, rows // 8)
    tensors = {
        f"{MODULE}.qweight": torch.zeros(packed, dtype=torch.int32),
        f"{MODULE}.qzeros": torch.full((columns // group, rows // 8), 0x77777777, dtype=torch.int32),
        f"{MODULE}.scales": torch.ones((columns // group, rows), dtype=torch.float16),
    }
    if method == "gptq":
        tensors[f"{MODULE}.g_idx"] = torch.arange(columns, dtype=torch.int32) // group
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    said = {"quant_method": method, "bits": 4, "sym": True, **words}
    (folder / "config.json").write_text(json.dumps({"quantization_config": said}))
    return folder / "model.safetensors"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_llama(tmp_path_factory.mktemp("against") / "llama", layers=1)


def differences(file: Path, source: Path) -> dict[str, tuple[object, object]]:
    found = missing([file], source)
    return {h.name: (h.wanted, h.got) for h in found if h.wanted != h.got and not h.name.startswith("tensor ")}


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_groups_of_another_size_than_config_says_are_told(tmp_path: Path, source: Path, method: str) -> None:
    name = "quantization_config.group_size"
    assert differences(quantized(tmp_path / "right", method, group_size=32), source) == {}
    assert differences(quantized(tmp_path / "wrong", method, group_size=64), source) == {name: (32, 64)}
    assert differences(quantized(tmp_path / "whole", method, group_size=-1), source) == {name: (32, -1)}


def test_groups_that_rules_of_their_own_decide_are_not_judged(tmp_path: Path, source: Path) -> None:
    rules = {r"\+:.*up_proj.*": {"group_size": 32}}
    assert differences(quantized(tmp_path / "rules", "gptq", group_size=64, dynamic=rules), source) == {}
    left_out = {r"-:.*visual.*": {}}
    assert differences(quantized(tmp_path / "left out", "gptq", group_size=64, dynamic=left_out), source) != {}
