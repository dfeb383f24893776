"""What is known of the inputs of a model's matrices, for who makes 4-bit numbers of them."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from convert.bundle import Bundle, Role
from convert.errors import ConvertError
from convert.formats.onnx.blocks import Encode, Int4, Search, Solved, rounded
from convert.progress import Progress
from validate.runtimes._threads import useful_threads

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from convert.calibration.options import Calibration
    from convert.formats.onnx import solving
    from convert.formats.onnx.export import Beyond
    from convert.formats.onnx.joined import Stored

ROWS, ROW = 8, 256
"""Of tokens that are read to find what float16 has no room for."""


@dataclass(frozen=True)
class Known:
    """Who makes the numbers, and the tensors that took factors, by the checkpoint's names."""

    encode: Encode
    changed: Mapping[str, Stored] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """How many matrices were made how; empty of rounded ones."""
        search = self.encode.search if isinstance(self.encode, Solved) else self.encode
        counts = search.counts if isinstance(search, Search) else {}
        return ", ".join(f"{count} {word}" for word, count in counts.items())


@contextmanager
def known(asked: Int4, solve: solving.Asked | None, source: Bundle, out: Path, progress: Progress) -> Iterator[Known]:
    """What is known of `source`, while the context is open; GPTQ's integers where it is to `solve`.

    Raises InputError for an importance matrix of another model.
    """
    if asked.method == "plain":
        yield Known(rounded)
        return
    threads = useful_threads(*(a.path for a in source.of(Role.WEIGHTS)))
    search = Search(importance(source), threads)
    if solve is None:
        yield Known(search)
        return
    from convert.formats.onnx import solving
    from convert.formats.onnx.export import prepare

    names = {name: tensor.name for name, tensor in prepare(source).ledger.of.items()}
    with solving.solved(solve, source, out, progress) as found:
        yield Known(Solved(lambda name: found.of_tensor(names.get(name, name)), search), found.changed)


def range_finder(source: Bundle, calibration: Calibration | None, out: Path, progress: Progress) -> Beyond:
    """Who finds a graph's values that pass float16's range, over some rows of what is calibrated on, or of our mix."""
    from convert.formats.onnx import ranges

    @functools.cache
    def rows() -> list[np.ndarray]:
        from convert.calibration.rows import Description, make_rows
        from validate.errors import RuntimeFailure
        from validate.runtimes._folder import CheckpointFolder

        asked = replace(calibration.description if calibration else Description(), samples=ROWS, length=ROW, screens="")
        home = next(file.path.parent for file in source.of(Role.CONFIG) if file.path.name == "config.json")
        try:
            made = make_rows(CheckpointFolder(home), asked)
        except (RuntimeFailure, ConvertError) as error:
            progress.warn(f"q4f16: nothing was run ({error}); only multiplications are float16")
            return []
        return [row["input_ids"] for row in made]

    def find(model: ir.Model) -> frozenset[str] | None:
        with tempfile.TemporaryDirectory(prefix=".ranges-", dir=out) as folder:
            found = ranges.beyond(model, rows(), Path(folder))
        if found is not None:
            progress.note(f"q4f16: {len(found)} values come near float16's end, and stay float32")
        return found

    return find


def importance(source: Bundle) -> dict[str, np.ndarray]:
    """What errors in the columns of each parameter cost, where an importance matrix says it."""
    from convert.formats.gguf.column_importance import ColumnImportance
    from convert.formats.onnx.export import prepare

    known = ColumnImportance.of(source)
    if known is None:
        return {}
    found = {
        name: known.of_tensor(tensor.name, prod(tensor.shape[1:])) for name, tensor in prepare(source).ledger.of.items()
    }
    return {name: costs for name, costs in found.items() if costs is not None and costs.ndim == 1}
