"""The source on transformers, for the stages that run it: what outputs are compared with, what calibrates encoders."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convert.bundle import MEASURED, Bundle, Role
from convert.errors import Problem, StageError
from convert.files import STATE_FOLDER
from convert.model.memory_needs import weights_in, weights_of
from convert.source.checkpoint import packing

if TYPE_CHECKING:
    from convert.model.resume import Resume
    from convert.model.session import LayeredSession
    from validate.runtimes.transformers import TransformersSession


NOT_THE_MODELS = (Role.CARD, Role.REPORT, *MEASURED)


@dataclass(frozen=True)
class How:
    """How the source computes: in which type, and whether one layer at a time; None where memory decides."""

    dtype: str = "float32"
    layered: bool | None = None
    resume: Resume | None = None  # where a pass over the layers writes down how far it is


def passes_folder(out: Path) -> Path:
    """Where a step that writes to `out` keeps how far its passes are: `out` itself is emptied when it is run again."""
    return out.parent / STATE_FOLDER / "passes" / out.stem


@contextlib.contextmanager
def open_layered(
    source: Bundle, threads: int | None = None, within: Path | None = None, resume: Resume | None = None
) -> Iterator[LayeredSession]:
    """As `open_reference`, one layer at a time, for who looks at what goes into the layers."""
    from convert.model.session import LayeredSession

    with open_reference(source, threads, within=within, how=How(layered=True, resume=resume)) as session:
        assert isinstance(session, LayeredSession)
        yield session


@contextlib.contextmanager
def open_reference(
    source: Bundle,
    threads: int | None = None,
    *,
    trust_remote_code: bool = False,
    within: Path | None = None,
    how: How | None = None,
) -> Iterator[TransformersSession]:
    """A session on the source, in a folder that holds links to the bundle's files and nothing else.

    So what runs is what is converted: not a second set of weights beside it, and no Python file. Raises StageError
    where it does not load. The folder lies `within` the stage's own, where the next run clears it if this one is
    killed, or where the system keeps temporary files.
    """
    from validate import runtimes

    with tempfile.TemporaryDirectory(prefix="reference-", dir=within) as name:
        folder = Path(name)
        link_files(source, folder, code=trust_remote_code)
        try:
            session = _session(folder, threads, trust_remote_code, how or How())
        except runtimes.RuntimeFailure as error:
            raise StageError("the reference", str(error), remedy="the source itself has to run first") from error
        with session:
            yield session


def _session(folder: Path, threads: int | None, trust_remote_code: bool, how: How) -> TransformersSession:
    """The whole model where it fits as float32, else one layer at a time."""
    from convert.model.session import LayeredSession
    from validate import memory
    from validate.runtimes import transformers

    need, free = weights_in(folder).full_bytes, memory.free_bytes()
    fits = how.dtype == "float32" and (free is None or need <= free * memory.FREE_SHARE)
    whole = fits if how.layered is None else not how.layered and how.dtype == "float32"
    if whole and packing(folder) is None:
        return transformers.RUNTIME.open(folder, threads=threads, trust_remote_code=trust_remote_code)
    session = LayeredSession(folder, threads, trust_remote_code, how.dtype, folder.parent)
    session.resume, session.whole = how.resume, whole
    return session


def link_files(source: Bundle, folder: Path, code: bool) -> None:
    """Links in `folder` to the bundle's files, as they lie beside its config; with `code`, to Python files too."""
    home = next(iter(source.of(Role.CONFIG))).path.parent
    wanted = [a.path for role, a in source.artifacts() if role not in NOT_THE_MODELS]
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

    need, total = weights_of(source).layered_bytes, memory.total_bytes()
    if total is None or need <= total:
        return []
    return [
        Problem(
            where,
            f"the source on transformers takes {need / 1e9:.1f} GB of memory, one layer at a time",
            f"at most the {total / 1e9:.1f} GB there are",
            remedy,
        )
    ]
