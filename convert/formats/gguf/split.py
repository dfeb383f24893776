"""One GGUF model in several files, as llama.cpp splits it.

    Name-Q4_K_M-00001-of-00003.gguf   every field of the model, and the first tensors
    Name-Q4_K_M-00002-of-00003.gguf   only the fields below, and the next tensors
    Name-Q4_K_M-00003-of-00003.gguf

    split.no              uint16   0, 1, 2
    split.count           uint16   3
    split.tensors.count   int32    of all files together

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
from convert.formats.gguf.file_plan import FilePlan, TensorInfo
from convert.formats.gguf.shard_names import numbered
from convert.gguf_field import Field, GGUFValueType

MAX_FILES = 2**16 - 1  # split.count is a uint16


def split_plans(plan: FilePlan, max_bytes: int) -> tuple[FilePlan, ...]:
    """The planned file in files of at most `max_bytes` each: itself alone when it is no larger.

    Tensors stay whole and in their order. Where the metadata leaves no room for the first tensor, the first file has
    none, which llama.cpp can read. Raises InputError for a tensor, or metadata, that no such file can hold.
    """
    if plan.size <= max_bytes:
        return (plan,)
    fields = _split_fields(0, 0, len(plan.infos))
    # that of a header without tensors is padded already: up to 31 bytes more than it will take
    first, later = (len(replace(plan, fields=f, infos=()).header) for f in ((*plan.fields, *fields), fields))
    if first > max_bytes:
        raise _too_large(f"the metadata of {plan.name}", first, max_bytes)
    groups: list[list[TensorInfo]] = [[]]
    size = first
    for info in plan.infos:
        if size + _bytes(info) > max_bytes:
            groups.append([])
            size = later
        if size + _bytes(info) > max_bytes:
            raise _too_large(f"tensor {info.name} of {plan.name}", size + _bytes(info), max_bytes)
        groups[-1].append(info)
        size += _bytes(info)
    if len(groups) > MAX_FILES:
        raise InputError("max_shard", f"{plan.name} would become {len(groups)} files", f"at most {MAX_FILES}")
    names = numbered(plan.name.removesuffix(".gguf"), len(groups))
    metadata = (
        (*(() if number else plan.fields), *_split_fields(number, len(groups), len(plan.infos)))
        for number in range(len(groups))
    )
    return tuple(
        replace(plan, name=name, fields=fields, infos=tuple(infos))
        for name, fields, infos in zip(names, metadata, groups, strict=True)
    )


def _split_fields(number: int, count: int, tensors: int) -> tuple[Field, ...]:
    return (
        Field("split.no", number, GGUFValueType.UINT16),
        Field("split.count", count, GGUFValueType.UINT16),
        Field.int32("split.tensors.count", tensors),
    )


def _bytes(info: TensorInfo) -> int:
    """What a tensor adds to a file at most: its entry in the header (writer.py draws it), its data, their padding."""
    return 24 + len(info.name.encode()) + 8 * len(info.shape) + info.nbytes + -info.nbytes % 32


def _too_large(what: str, size: int, most: int) -> InputError:
    return InputError("max_shard", f"{what} needs {size:,} bytes in one file", f"at most {most:,}", "raise max_shard")


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
