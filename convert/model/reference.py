"""The source on transformers, for the stages that run it: what outputs are compared with, what calibrates encoders."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from convert.bundle import Bundle, Role
from convert.errors import Problem, StageError

if TYPE_CHECKING:
    from validate.runtimes.transformers import TransformersSession


@contextlib.contextmanager
def open_reference(
    source: Bundle, threads: int | None = None, *, trust_remote_code: bool = False, within: Path | None = None
) -> Iterator[TransformersSession]:
    """A session on the source, in a folder that holds links to the bundle's files and nothing else.

    So what runs is what is converted: not a second set of weights beside it, and no Python file. Raises StageError
    where it does not load. The folder lies `within` the stage's own, where the next run clears it if this one is
    killed, or where the system keeps temporary files.
    """
    from validate import runtimes
    from validate.runtimes import transformers

    with tempfile.TemporaryDirectory(prefix="reference-", dir=within) as name:
        folder = Path(name)
        link_files(source, folder, code=trust_remote_code)
        try:
            session = transformers.RUNTIME.open(folder, threads=threads, trust_remote_code=trust_remote_code)
        except runtimes.RuntimeFailure as error:
            raise StageError("the reference", str(error), remedy="the source itself has to run first") from error
        with session:
            yield session


def link_files(source: Bundle, folder: Path, code: bool) -> None:
    """Links in `folder` to the bundle's files, as they lie beside its config; with `code`, to Python files too."""
    home = next(iter(source.of(Role.CONFIG))).path.parent
    wanted = [a.path for role, a in source.artifacts() if role not in (Role.CARD, Role.REPORT, Role.IMATRIX)]
    shard_folders = {a.path.parent for a in source.of(Role.WEIGHTS)}
    for shard_folder in (home, *sorted(shard_folders - {home})):  # the source's own output has a better index
        wanted += shard_folder.glob("*.safetensors.index.json")
    if code:
        wanted += home.glob("*.py")
    for path in wanted:
        inside = path.relative_to(home) if path.is_relative_to(home) else Path(path.name)
        link = folder / inside
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(path.resolve())


def check_memory(source: Bundle, where: str, remedy: str = "run it on a machine with more") -> list[Problem]:
    """A source larger than the machine. What is free just now is asked when it is loaded, not here."""
    from validate import memory

    files = [a.path for a in source.of(Role.WEIGHTS) if a.format == "safetensors"]
    need, total = memory.weights(files).half_bytes, memory.total_bytes()
    if total is None or need <= total:
        return []
    return [
        Problem(
            where,
            f"the source on transformers takes {need / 1e9:.1f} GB of memory",
            f"at most the {total / 1e9:.1f} GB there are",
            remedy,
        )
    ]
