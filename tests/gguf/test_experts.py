"""Experts are tensors of their own in a checkpoint and one in a file: in their order, read one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.architectures import qwen3_moe
from convert.architectures._graph_spec import GraphSpec, OutputTensor, SourceTensor
from convert.bundle import Role
from convert.formats.gguf.ledger import Entry, match_tensors
from convert.formats.gguf.stage import STAGE as stage
from convert.formats.gguf.tensors import forecast_tensors, spec_tensors
from convert.source.checkpoint import LazyTensor, open_checkpoint
from tests import tiny
from tests.fixtures_gguf import convert, digests, edit_weights, read_gguf, source_inputs

EXTRA = "model.layers.0.mlp.experts.8.up_proj.weight"
MIXED = "model.layers.0.mlp.experts.2.down_proj.weight"


def test_every_expert_is_in_its_place(tmp_path: Path) -> None:
    """Ten of them: sorted as text, the tenth would come second."""
    folder = tiny.tiny_qwen3_moe(tmp_path / "Tiny", experts=10, layers=1)
    (file,) = convert(folder, tmp_path / "out", "F32").of(Role.WEIGHTS)
    held, sources = read_gguf(file.path)[1], open_checkpoint(folder).tensors
    for which in ("gate", "up", "down"):
        for place in range(10):
            bits = sources[f"model.layers.0.mlp.experts.{place}.{which}_proj.weight"].load().astype(np.uint32) << 16
            np.testing.assert_array_equal(held[f"blk.0.ffn_{which}_exps.weight"].data[place], bits.view(np.float32))


def test_experts_of_a_layer_may_lie_in_several_files(tmp_path: Path) -> None:
    one = tiny.tiny_qwen3_moe(tmp_path / "one" / "Tiny")
    many = tiny.tiny_qwen3_moe(tmp_path / "many" / "Tiny", shards=7)
    types = ("F16", "Q8_0")
    first, second = (convert(f, f.parent / "out", *types).of(Role.WEIGHTS) for f in (one, many))
    for a, b in zip(first, second, strict=True):
        assert digests(a.path) == digests(b.path)


def lazy(place: int, log: list[str]) -> LazyTensor:
    def load() -> np.ndarray:
        log.append(f"load {place}")
        return np.full((2, 4), place, np.float32)

    return LazyTensor(f"expert.{place}", (2, 4), "F32", load, release=lambda: log.append(f"release {place}"))


def test_they_are_read_one_after_the_other() -> None:
    log: list[str] = []
    entries = []
    for place in (2, 0, 1):
        target = OutputTensor("exps.weight", (3, 2, 4), place=place)
        entries.append(Entry(lazy(place, log), SourceTensor(f"expert.{place}", (2, 4), (target,)), 0))
    (tensor,) = spec_tensors(GraphSpec("x", (), tuple(e.tensor for e in entries)), entries)
    assert (tensor.shape, tensor.rows, tensor.output.place) == ((3, 2, 4), 6, None)
    assert log == []
    assert [float(values[0, 0]) for values in tensor.chunks()] == [0, 1, 2]
    assert log == ["load 0", "release 0", "load 1", "release 1", "load 2", "release 2"]
    assert tensor.source is not None
    assert tensor.source.nbytes == 96
    np.testing.assert_array_equal(tensor.source.load()[:, 0, 0], [0, 1, 2])


def test_the_forecast_has_the_same_tensors(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny.tiny_qwen3_moe(tmp_path, layers=1))
    part = qwen3_moe.text(checkpoint.config)
    real = spec_tensors(part, match_tensors(checkpoint.tensors, [part]).entries)
    assert {t.name: t.shape for t in forecast_tensors(part)} == {t.name: t.shape for t in real}
    assert len(real) == len(forecast_tensors(part))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.layers.0.mlp.experts.3.up_proj.weight"), "lacks model.layers.0.mlp.experts.3.up_proj"),
        (
            lambda t: t.update({EXTRA: t["model.norm.weight"].clone()}),
            "has unknown tensors: model.layers.0.mlp.experts.8",
        ),
        (lambda t: t.update({MIXED: t[MIXED].float()}), "experts of one layer in different types: blk.0.ffn_down_exps"),
    ],
)
def test_a_layer_with_an_expert_that_does_not_fit_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    folder = tiny.tiny_qwen3_moe(tmp_path, layers=1)

    def changed(tensors: dict[str, Any]) -> dict[str, Any]:
        change(tensors)
        return tensors

    edit_weights(folder, changed)
    problems = stage.check(stage.Options(types=["F16"]), source_inputs(folder))
    assert message in "\n".join(map(str, problems))
