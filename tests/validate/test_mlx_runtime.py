"""MLX folders on mlx-lm: what the folder's numbers give in transformers, and what is said where it is not installed."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import tiny
from tests.fixtures_mlx import made
from validate.runtimes import open_session
from validate.runtimes.mlx_lm import MlxLm
from validate.runtimes.transformers import RUNTIME as transformers

TOKENS = [3, 60, 7, 200, 12, 45, 9, 101]


def test_what_is_said_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    there: Callable[[str], object] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlx_lm" else there(name))
    said = MlxLm().available()
    assert said is not None
    assert said.startswith("mlx_lm")
    assert "[mlx]" in said


@pytest.mark.parametrize("make", [tiny.tiny_llama, tiny.tiny_qwen3_moe])
def test_logits_are_those_of_the_decoded_numbers(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """The folder's numbers, decoded by ours and put into the checkpoint, on transformers: prefill, cache, greedy."""
    pytest.importorskip("mlx_lm")
    source = make(tmp_path / "Tiny")
    bundle, folder = made(source, tmp_path / "out", bits=4, group_size=32)
    with open_session(transformers, _decoded(source, bundle, tmp_path / "decoded") / "model.safetensors") as reference:
        wanted = reference.logits(TOKENS)
    with open_session(MlxLm(), folder / "model.safetensors", threads=1) as session:
        found = session.logits(TOKENS)
        np.testing.assert_allclose(found, wanted, atol=2e-3 * float(wanted.std()), rtol=0)
        np.testing.assert_allclose(session.decode_logits(TOKENS), found, atol=1e-3 * float(wanted.std()), rtol=0)
        follows = session.generate(TOKENS, 3)
        assert follows[0] == int(found[-1].argmax())
        assert 1 <= len(follows) <= 3
        assert session.tokenize("a word") == reference.tokenize("a word")


def _decoded(source: Path, bundle: object, home: Path) -> Path:
    """The checkpoint with its matrices replaced by what the folder's are worth, in float32."""
    import torch
    from safetensors.torch import save_file

    from convert import registry
    from convert.bundle import Bundle
    from convert.formats.mlx import FORMAT
    from convert.source.checkpoint import open_tensors
    from quantize.floats import to_float32

    assert isinstance(bundle, Bundle)
    shutil.copytree(source, home)
    own = {n: np.array(to_float32(np.ascontiguousarray(t.load()))) for n, t in open_tensors(source).items()}
    (output,) = registry.outputs("mlx", bundle)
    for pair in FORMAT.tensor_pairs(output, source):
        names = [n for n in own if n == pair.name] or _experts(pair.name, own)
        for name, (mine, _) in zip(names, pair.pieces(1), strict=True):
            own[name] = mine.reshape(own[name].shape).astype(np.float32)
    for file in home.glob("*.safetensors*"):
        file.unlink()
    save_file({name: torch.from_numpy(np.array(value)) for name, value in own.items()}, home / "model.safetensors")
    config = json.loads((home / "config.json").read_text()) | {"torch_dtype": "float32", "dtype": "float32"}
    (home / "config.json").write_text(json.dumps(config))
    return home


def _experts(name: str, own: dict[str, np.ndarray]) -> list[str]:
    """The checkpoint's tensors that a stack is made of, in its order."""
    parts = name.split(".switch_mlp.")
    found = [n for n in own if n.startswith(f"{parts[0]}.experts.") and n.endswith(f".{parts[1]}")]
    return sorted(found, key=lambda n: int(n.split(".experts.")[1].split(".")[0]))


def test_a_folder_that_does_not_load(tmp_path: Path) -> None:
    """A tensor too many: mlx-lm's own words, not a crash."""
    pytest.importorskip("mlx_lm")
    import torch
    from safetensors.torch import load_file, save_file

    from validate.runtimes import RuntimeFailure

    _, folder = made(tiny.tiny_llama(tmp_path / "Tiny"), tmp_path / "out", group_size=32)
    tensors = load_file(folder / "model.safetensors") | {"model.layers.0.stray.weight": torch.zeros(1)}
    save_file(tensors, folder / "model.safetensors", {"format": "mlx"})
    with pytest.raises(RuntimeFailure, match="mlx-lm could not load"):
        open_session(MlxLm(), folder / "model.safetensors")
