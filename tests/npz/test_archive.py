"""NPZ archives: what is forecast is written, numpy reads it, and its header says what it holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convert.errors import InputError
from convert.files import HashedFile
from convert.formats.npz.archive import inspect, size, write

ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float32)}


def test_numpy_reads_what_is_written_and_its_size_was_forecast(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    with HashedFile(path) as file:
        write(file, ARRAYS.items())
    with np.load(path) as read:
        assert {name: values.tolist() for name, values in read.items()} == {n: v.tolist() for n, v in ARRAYS.items()}
    assert path.stat().st_size == size({n: v.shape for n, v in ARRAYS.items()}, np.dtype(np.float32))
    assert [(t.name, t.type, t.shape) for t in inspect(path).tensors] == [
        ("a.weight", "F32", (2, 3)),
        ("b", "F32", (4,)),
    ]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="is no archive of arrays"):
        inspect(path)
