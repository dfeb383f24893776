"""One GGUF model in several files, as llama.cpp splits it.

    Name-Q4_K_M-00001-of-00003.gguf   every field of the model, and the first tensors
    Name-Q4_K_M-00002-of-00003.gguf   only the fields below, and the next tensors
    Name-Q4_K_M-00003-of-00003.gguf

    split.no              uint16   0, 1, 2
    split.tensors.count   int32    of all files together
    split.count           uint16   3

llama.cpp is given the first file and finds the others by their names. Sources: tools/gguf-split/gguf-split.cpp and
src/llama-model-loader.cpp, which refuses a number of another type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from convert.bundle import Artifact
from convert.errors import InputError
from convert.files import Buffer, HashedFile
from convert.formats.gguf.file_plan import FilePlan, TensorInfo, padded
from convert.formats.gguf.shard_names import Split, numbered
from convert.gguf_field import Field, GGUFValueType

MAX_FILES = 2**16 - 1  # split.count is a uint16


def split_plans(plan: FilePlan, split: Split, kept: Sequence[Sequence[str]] = ()) -> tuple[FilePlan, ...]:
    """The planned file in several: itself alone where one would hold all its tensors, whatever is asked for.

    Tensors stay whole and in their order; as llama-gguf-split counts, a file's bytes are those of its tensors, and the
    metadata in the first come on top. `kept` are the names of the tensors of each file, where those of a source are
    kept. Raises InputError for a tensor that is larger than a file may be.
    """
    groups = [[by_name[n] for n in names] for by_name in [{i.name: i for i in plan.infos}] for names in kept]
    groups = groups or _groups(plan, split)
    if len(groups) == 1:
        return (plan,)
    if len(groups) > MAX_FILES:
        raise InputError("split", f"{plan.name} would become {len(groups)} files", f"at most {MAX_FILES}")
    names = numbered(plan.name.removesuffix(".gguf"), len(groups))
    files = []
    for number, (name, infos) in enumerate(zip(names, groups, strict=True)):
        fields = _split_fields(number, len(groups), len(plan.infos), kept=bool(kept))
        # ggml knows no axes of 1 at the end of its dimensions, and llama-gguf-split writes what ggml has read
        flat = tuple(replace(info, shape=_without_ones(info.shape)) for info in infos)
        files.append(replace(plan, name=name, fields=(*(() if number else plan.fields), *fields), infos=flat))
    return tuple(files)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _groups(plan: FilePlan, split: Split) -> list[list[TensorInfo]]:
    """The tensors of each file."""
    groups: list[list[TensorInfo]] = [[]]
    size = 0
    for info in plan.infos:
        nbytes = padded(info.nbytes)
        full = len(groups[-1]) == split.tensors if split.tensors else bool(split.bytes) and size + nbytes > split.bytes
        if full and groups[-1]:
            groups.append([])
            size = 0
        if split.bytes and nbytes > split.bytes:
            raise _too_large(f"tensor {info.name} of {plan.name}", nbytes, split.bytes)
        groups[-1].append(info)
        size += nbytes
    return groups


def _split_fields(number: int, count: int, tensors: int, *, kept: bool) -> tuple[Field, ...]:
    """In llama-gguf-split's order, or where shards are kept in llama-quantize's."""
    fields = (
        Field("split.no", number, GGUFValueType.UINT16),
        Field("split.count", count, GGUFValueType.UINT16),
        Field.int32("split.tensors.count", tensors),
    )
    return fields if kept else (fields[0], fields[2], fields[1])


def _too_large(what: str, size: int, most: int) -> InputError:
    return InputError("split", f"{what} has {size:,} bytes, which stay in one file", f"at most {most:,}", "raise split")


class SplitFile:
    """The files of one output, new in `folder`; to its writer they are one file, written in order.

    Call `end_tensor` after each tensor's last byte. Leave the `with` block and all are on the disk; when it ends in an
    error none is left. One file is open at a time.
    """

    def __init__(self, folder: Path, plans: Sequence[FilePlan]) -> None:
        self._folder = folder
        self._waiting = list(plans)
        self._done: list[Artifact] = []

    def write(self, data: bytes | Buffer) -> None:
        self._file.write(data)

    def end_tensor(self, alignment: int) -> None:
        """Pad what was written, and go on to the next file where this one has all its tensors."""
        self._file.pad_to(alignment)
        self._tensors -= 1
        if self._waiting and not self._tensors:
            self._close()
            self._open()

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """The files that are finished: all of them after the `with` block."""
        return tuple(self._done)

    def _open(self) -> None:
        self._plan = self._waiting.pop(0)
        self._tensors = len(self._plan.infos)
        self._file = HashedFile(self._folder / self._plan.name)
        try:
            self.write(self._plan.header)
        except BaseException as error:  # a full disk: `with` has not begun
            self.__exit__(type(error), error, error.__traceback__)
            raise
        if self._waiting and not self._tensors:  # only metadata in the first
            self._close()
            self._open()

    def _close(self) -> None:
        self._file.__exit__(None, None, None)
        self._done.append(self._file.artifact(self._plan.kind))

    def __enter__(self) -> SplitFile:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._close()
            return
        self._file.__exit__(kind, error, trace)
        for artifact in self._done:
            artifact.path.unlink(missing_ok=True)
