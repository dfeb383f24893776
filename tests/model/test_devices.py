"""Layers elsewhere give what they give here; what only a GPU shows (memory, time) is not looked at."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from convert.model import layered
from convert.model.devices import CPU, Ahead, open_on
from convert.model.hollow import Weights
from convert.model.inputs import GatherInputs, Inputs
from convert.model.layered import Layer, Layered
from convert.model.scratch import Scratch
from tests.model.passes import windows
from tests.parity.families import cases


@pytest.fixture(autouse=True)
def small_matrices_are_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layered, "LARGE", 64 * 200)


def two(folder: Path) -> Layered:
    return open_on([CPU, CPU], folder, torch.float32, trust_remote_code=False, scratch=Scratch())


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "bloom", "gemma2", "qwen2_5_vl"])
def test_passes_split_over_two_devices(name: str, tmp_path: Path) -> None:
    folder = cases()[name].make(tmp_path / "tiny")
    one, other = Layered.open(folder), two(folder)
    inputs = windows(one)
    wanted = dict(one.run(inputs))
    for _ in range(2):
        got = dict(other.run(inputs))
        assert sorted(got) == [0, 1, 2]
        for number, output in got.items():
            assert torch.equal(output.logits, wanted[number].logits)  # type: ignore[attr-defined]
        assert all(p.is_meta for layer in other.layers for p in layer.module.parameters()), "weights are let go"


def test_each_layers_weights_are_brought_once_while_the_one_before_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = two(cases()["llama"].make(tmp_path / "tiny"))
    events, load = list[str](), Weights._load

    def loads(self: Weights, module: str, whole: bool) -> None:
        load(self, module, whole)
        events.append(module)

    monkeypatch.setattr(Weights, "_load", loads)
    list(parts.run(windows(parts)))
    names = [layer.name for layer in parts.layers]
    assert events == names
    assert isinstance(parts.weights, Ahead)
    list(parts.run(windows(parts), head=False))
    assert events[len(names) :] == names, "the head was brought, and let go"
    assert all(p.is_meta for layer in parts.layers for p in layer.module.parameters())


def take(sums: dict[str, Inputs], _: Layer, inputs: Mapping[str, Inputs]) -> None:
    sums |= inputs


def test_who_looks_at_layers_sees_the_same(tmp_path: Path) -> None:
    folder = cases()["llama"].make(tmp_path / "tiny")
    found: list[dict[str, Inputs]] = []
    for parts in (Layered.open(folder), two(folder)):
        sums: dict[str, Inputs] = {}
        list(parts.run(windows(parts), GatherInputs(parts, partial(take, sums))))
        found.append(sums)
    for name, one in found[0].items():
        assert torch.equal(one.squares, found[1][name].squares)


def test_tensors_go_to_the_device_and_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no other device here: what is asked of torch is looked at."""
    parts = two(cases()["llama"].make(tmp_path / "tiny"))
    inputs, asked, to = windows(parts), list[Any](), torch.Tensor.to

    def moves(self: torch.Tensor, *args: Any, **words: Any) -> torch.Tensor:
        if args == (CPU,):
            asked.append(tuple(self.shape))
        return to(self, *args, **words)

    monkeypatch.setattr(torch.Tensor, "to", moves)
    list(parts.run(inputs[:1]))
    hidden = (1, 24, parts.model.config.hidden_size)
    assert asked.count(hidden) >= 2 * sum(layer.in_list for layer in parts.layers)
