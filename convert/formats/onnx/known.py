"""What is known of the inputs of a model's matrices, for who makes 4-bit numbers of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from convert.bundle import Bundle, Role
from convert.formats.onnx.blocks import Encode, Int4, Search, Solved, rounded
from convert.progress import Progress
from validate.runtimes._threads import useful_threads

if TYPE_CHECKING:
    import numpy as np

    from convert.formats.onnx import solving
    from convert.formats.onnx.joined import Stored


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
