"""What a reference takes, and that the one in half the memory gives the same bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny
from validate import memory, runtimes, vision
from validate.runtimes import RuntimeFailure, transformers


def header(path: Path, **tensors: tuple[str, list[int]]) -> Path:
    entries = {n.replace("__", "."): {"dtype": d, "shape": s, "data_offsets": [0, 0]} for n, (d, s) in tensors.items()}
    raw = json.dumps({"__metadata__": {}, **entries}).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw)
    return path


def test_weights_are_counted_from_headers(tmp_path: Path) -> None:
    one = header(tmp_path / "1", a=("BF16", [10, 4]), norm=("F32", [10]), visual__b=("BF16", [5, 2]))
    two = header(tmp_path / "2", c=("BF16", [2, 3]))
    assert memory.weights([one, two]) == memory.Weights(4 * 66, 4 * 66 - 2 * 46, "bfloat16", 4 * 66)
    mixed = header(tmp_path / "3", c=("F32", [2, 3]))
    assert memory.weights([one, mixed]) == memory.Weights(4 * 66, 4 * 66, "", 4 * 66)
    broken = tmp_path / "4"
    broken.write_bytes(b"\xff" * 20)
    assert memory.weights([broken, tmp_path / "none"]) == memory.Weights(0, 0, "", 0)


def test_one_layer_at_a_time_takes_the_largest(tmp_path: Path) -> None:
    large, rest = 1 << 22, ("F32", [10])
    file = header(
        tmp_path / "1",
        embed=("BF16", [large]),
        model__layers__0__q=("BF16", [large, 2]),
        model__layers__1__q=("BF16", [large, 3]),
        model__layers__1__norm=rest,
        norm=rest,
    )
    assert memory.weights([file]).layered_bytes == 4 * (3 * large + 10) + 4 * 10


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = memory.total_bytes()
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.total_bytes() == memory._meminfo("MemTotal")
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 500000\nfile 200000\n")
    assert (memory.free_bytes(), memory.total_bytes()) == (500000, 1000000)
    assert machine is None or machine > 1000000


@pytest.mark.parametrize("make", [tiny.tiny_qwen2, tiny.tiny_llama, tiny.tiny_qwen2_5_vl])
def test_half_the_memory_and_the_same_bits(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "tiny")
    stored_in_bfloat16(folder)
    answers: list[list[Any]] = []
    for tight in (False, True):
        if tight:
            need = memory.weights(folder.glob("*.safetensors"))
            monkeypatch.setattr(memory, "free_bytes", lambda need=need: need.half_bytes)
        with runtimes.open_session(transformers.RUNTIME, folder) as session:
            model: Any = session._model  # type: ignore[attr-defined]
            kinds = {str(p.dtype) for p in model.parameters()}
            assert ("torch.bfloat16" in kinds) is tight
            ids = list(range(5, 45))
            answer: list[Any] = [session.logits(ids), session.generate(ids, 8)]
            if session.identity().has_vision:
                seen = vision.ask(session, "x", vision.drawing(112, 84))  # type: ignore[arg-type]
                answer += [seen.embeddings, seen.logits]
            answers.append(answer)
            assert answer[0].dtype == np.float32
    for wanted, got in zip(*answers, strict=True):
        np.testing.assert_array_equal(got, wanted)


def stored_in_bfloat16(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    save_file({k: v.to(torch.bfloat16) for k, v in load_file(path).items()}, path, {"format": "pt"})


def test_a_source_that_does_not_fit_is_told_and_not_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.tiny_qwen2(tmp_path / "tiny")
    monkeypatch.setattr(memory, "free_bytes", lambda: 1000)
    with pytest.raises(RuntimeFailure, match=r"take 0\.0 GB of memory to compute in float32, 0\.0 GB are free"):
        transformers.RUNTIME.open(folder).logits([1])
