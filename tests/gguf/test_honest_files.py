"""Every family's file is its checkpoint again: no tensor off, no number of the model stated otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from convert.bundle import Role
from convert.formats.gguf.against import hyperparameters, tensor_pairs
from convert.validation.tensors import compare_tensors
from tests.fixtures_gguf import convert
from tests.parity.families import every_case, tried

ALL = every_case()


@pytest.mark.parametrize("name", tried(ALL))
def test_an_honest_file_raises_no_alarm(name: str, tmp_path: Path) -> None:
    folder = ALL[name].make(tmp_path / "tiny")
    bundle = convert(folder, tmp_path / "out", "F32", "Q4_0", mmproj="F16" if ALL[name].image else None)
    beside = [artifact.path for artifact in bundle.of(Role.PROJECTOR)]
    for artifact in bundle.of(Role.WEIGHTS):
        paths = [artifact.path, *beside]
        found = compare_tensors(list(tensor_pairs(paths, folder)))
        assert {tensor.name: tensor.note for tensor in found if tensor.note} == {}
        assert found
        assert [one for one in hyperparameters(paths, folder) if one.wanted != one.got] == []
