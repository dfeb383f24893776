"""A zip archive of .npy members, as numpy.load reads it; stored, not compressed, with no times in it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path

import numpy as np

from convert.errors import InputError
from convert.files import HashedFile
from convert.formats.facts import Facts, TensorSummary, facts

TYPES = {"float32": "F32", "float16": "F16"}


class _Stream:
    """What zipfile asks of a file that it writes from its first byte to its last."""

    def __init__(self, file: HashedFile) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        self._file.write(data)
        return len(data)

    def flush(self) -> None:
        """HashedFile keeps nothing back."""


def write(file: HashedFile, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write the archive, one array after the other."""
    with zipfile.ZipFile(_Stream(file), "w") as archive:  # type: ignore[call-overload]  # no seek is needed
        for name, array in arrays:
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), _header(array.shape, array.dtype) + array.tobytes())


def size(shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype) -> int:
    """Bytes of such an archive: two headers, a name in each, and a descriptor for each member, and the end."""
    total = 22
    for name, shape in shapes.items():
        member = len(f"{name}.npy".encode())
        total += 30 + 46 + 16 + 2 * member + len(_header(shape, dtype)) + prod(shape) * dtype.itemsize
    return total


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    header = io.BytesIO()
    words = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, words)  # type: ignore[no-untyped-call]
    return header.getvalue()


def inspect(path: Path) -> Facts:
    """What the archive holds. Raises InputError where it is damaged."""
    tensors = []
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    np.lib.format.read_magic(member)  # type: ignore[no-untyped-call]
                    shape, _, dtype = np.lib.format.read_array_header_1_0(member)  # type: ignore[no-untyped-call]
                kind = TYPES.get(dtype.name, dtype.name)
                tensors.append(TensorSummary(name.removesuffix(".npy"), kind, shape, prod(shape) * dtype.itemsize))
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise InputError(str(path), f"is no archive of arrays: {error}", "one that numpy.savez wrote") from error
    return facts(path, "NPZ", path.stat().st_size, {}, tuple(tensors))
