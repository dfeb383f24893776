"""Graphs to validate, exported from the tiny checkpoints once a process. Import the fixtures you use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from convert.bundle import Bundle, Role
from convert.formats.onnx.stage import STAGE as onnx_stage
from convert.progress import Silent
from convert.source.stage import STAGE as source_stage
from tests import tiny


def export_tiny(make: Callable[..., Path], home: Path, precisions: tuple[str, ...]) -> dict[str, Bundle]:
    """The bundles of a source stage and of an onnx stage behind it, named as a recipe would."""
    checkpoint, source_out, onnx_out = make(home / "tiny"), home / "source", home / "onnx"
    source_out.mkdir()
    onnx_out.mkdir()
    source = source_stage.run(source_stage.Options(path=checkpoint), {}, source_out, Silent())
    wish = onnx_stage.Options(precision=precisions, layout="flat")
    return {"source": source, "onnx": onnx_stage.run(wish, {"source": source}, onnx_out, Silent())}


@pytest.fixture(scope="session")
def text_graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """A Qwen2 with a chat template: fp32 over the checkpoint's own bytes, fp16, bf16."""
    return _once(tiny.tiny_qwen2, tmp_path_factory, ("fp32", "fp16", "bf16"))


@pytest.fixture(scope="session")
def vision_graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """A Qwen2.5-VL: three graphs."""
    return _once(tiny.tiny_qwen2_5_vl, tmp_path_factory, ("fp32",))


_MADE: dict[Callable[..., Path], dict[str, Bundle]] = {}  # a session's fixture is one for each module that imports it


def _once(make: Callable[..., Path], folders: pytest.TempPathFactory, precisions: tuple[str, ...]) -> dict[str, Bundle]:
    if make not in _MADE:
        _MADE[make] = export_tiny(make, folders.mktemp("graphs"), precisions)
    return _MADE[make]


def graph(bundles: dict[str, Bundle], precision: str = "fp32") -> Path:
    """The graph that gives logits."""
    return next(a.path for a in bundles["onnx"].of(Role.WEIGHTS) if a.kind == f"onnx/{precision}")


def checkpoint(bundles: dict[str, Bundle]) -> Path:
    return bundles["source"].of(Role.CONFIG)[0].path.parent


def copied(bundles: dict[str, Bundle], home: Path) -> dict[str, Bundle]:
    """The bundles with the exported folder copied to `home`: its files may be broken."""
    folder = graph(bundles).parent
    shutil.copytree(folder, home)
    return bundles | {"onnx": bundles["onnx"].moved(folder, home)}


def swap_cache(path: Path) -> None:
    """Hand the first two layers' keys out under each other's names."""
    import onnx

    names = {"present.0.key": "present.1.key", "present.1.key": "present.0.key"}
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        for end in (node.input, node.output):
            for i, name in enumerate(end):
                end[i] = names.get(name, name)
    onnx.save(model, path)


def swap_tokens(folder: Path, one: str = "a", other: str = "b") -> None:
    """Give two tokens of tokenizer.json each other's id."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    ids = tokenizer["model"]["vocab"]
    ids[one], ids[other] = ids[other], ids[one]
    path.unlink()
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
