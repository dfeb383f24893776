"""A GGUF file as the source: its tensors in other types, its metadata and tokenizer as they are.

No table of a family is asked: whatever llama.cpp reads can be written again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from convert.architectures._graph_spec import OutputTensor, Packed
from convert.bundle import Bundle, Role
from convert.distribution import install_command
from convert.errors import PlanError, Problem
from convert.formats.gguf.conversion import (
    Conversion,
    ConversionSettings,
    hyper,
    imatrix_fields,
    imatrix_of,
)
from convert.formats.gguf.demands import lacking_weights, strays, ternary_notes, whole_blocks
from convert.formats.gguf.existing import shards_of
from convert.formats.gguf.file_plan import FilePlan, TensorInfo
from convert.formats.gguf.imatrix import Imatrix
from convert.formats.gguf.reader import GGUFHeader, StoredTensor, read_gguf_header
from convert.formats.gguf.split import split_plans
from convert.formats.gguf.tensors import StreamedTensor
from convert.formats.gguf.writer import Group
from convert.gguf_field import Field
from convert.source.checkpoint import STORAGE, LazyTensor
from quantize.mixes import MIXES, QUANTIZATION_VERSION, Asked, Mix, Tensor, choose

PLAIN = ("F32", "F16", "BF16")
OUTPUT = "output.weight"
FILE_TYPE, VERSION = "general.file_type", "general.quantization_version"
OF_THE_FILE = ("general.alignment", "split.", "quantize.imatrix.")  # said of this file, not of the model


def prepare_again(bundle: Bundle, settings: ConversionSettings, allowed: bool) -> Conversion:
    """The conversion of a GGUF file into the files asked for; `allowed`: of types that have lost something too.

    Raises ConvertError with every problem found.
    """
    path = bundle.of(Role.WEIGHTS)[0].path
    files = _Files(*shards_of(path, read_gguf_header(path)))
    header = files.header
    if problems := list(_problems(path, header, settings, allowed)):
        raise PlanError(*problems)
    keep = settings.split is not None and settings.split.keep
    if keep and len(files.paths) == 1:
        raise PlanError(Problem("split", "keep: the source is one file", "a source in shards, or a size"))
    tensors = tuple(_streamed(file, tensor, settings.asked) for file, tensor in files.tensors())
    imatrix = imatrix_of(problems, settings, tensors)
    problems += strays(settings.asked, tensors)
    if problems:
        raise PlanError(*problems)
    again = _Again(header, settings, imatrix, files.names if keep else ())
    volumes = tuple(again.volume(bundle.model.name, MIXES[kind]) for kind in dict.fromkeys(settings.types))
    group = Group(volumes, tensors, imatrix.weights if imatrix else None)
    if problems := lacking_weights(settings, group, imatrix):
        raise PlanError(*problems)
    lost = _lossy(header, settings.asked)
    notes = (f"made of {_counted(lost)}: what was lost with these types does not come back",) if lost else ()
    return Conversion(group, None, {}, (), (*notes, *ternary_notes(settings.types)), imatrix)


def _problems(path: Path, header: GGUFHeader, settings: ConversionSettings, allowed: bool) -> Iterator[Problem]:
    if settings.mmproj:
        yield Problem("mmproj", "the source is a GGUF file, whose projector is another file", "no mmproj option")
    if settings.pre_tokenizer:
        yield Problem(
            "pre_tokenizer", "the source is a GGUF file, whose tokenizer is carried as it is", "no such option"
        )
    said = {field.key: field.value for field in header.fields}
    if said.get("general.type", "model") != "model":
        yield Problem(str(path), f"is of the type {said['general.type']!r:.40}", "a model")
    odd = [t for t in header.tensors if t.type.name == "I32"]
    if odd:
        yield Problem(str(path), f"{odd[0].name} is {odd[0].type.name}", "tensors of floats")
    lost = _lossy(header, settings.asked)
    if lost and not allowed:
        remedy = "convert the model it was made from, or say `allow_requantize: true`: what was lost does not come back"
        yield Problem(str(path), f"holds {_counted(lost)}", f"{', '.join(PLAIN[:-1])} or {PLAIN[-1]}", remedy)


def _lossy(header: GGUFHeader, asked: Asked) -> Counter[str]:
    left = OUTPUT if asked.leave_output else ""
    return Counter(t.type.name for t in header.tensors if t.type.name not in PLAIN and t.name != left)


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} tensors of {name}" for name, count in kinds.most_common())


def _streamed(path: Path, tensor: StoredTensor, asked: Asked) -> StreamedTensor:
    if asked.leave_output and tensor.name == OUTPUT and tensor.type.name not in PLAIN:
        blocks = LazyTensor(tensor.name, (1, tensor.shape[0]), "U8", _Stored(path, tensor).blocks, path.name)
        packed = Packed(tensor.type.name, 1, lambda operands: operands[0], tensor.type.values)
        output = OutputTensor(tensor.name, tensor.shape, packed=packed)
        return StreamedTensor(output, blocks, parts=(blocks,), views=(None,))
    return StreamedTensor(OutputTensor(tensor.name, tensor.shape), stored_tensor(path, tensor))


def stored_tensor(path: Path, tensor: StoredTensor) -> LazyTensor:
    """A tensor of a GGUF file by the name it has there: as it is, or in float32 where it is in blocks."""
    stored = _Stored(path, tensor)
    dtype = tensor.type.name if tensor.type.name in PLAIN else "F32"
    rows = None if tensor.type.name in PLAIN else stored.dequantized
    return LazyTensor(tensor.name, tensor.shape, dtype, stored.load, path.name, rows=rows)


class _Stored:
    """A tensor's bytes in the file."""

    def __init__(self, path: Path, tensor: StoredTensor) -> None:
        self.path, self.tensor = path, tensor

    def load(self) -> np.ndarray:
        """Its values."""
        if self.tensor.type.name not in PLAIN:
            return self.dequantized(0, self.tensor.shape[0])
        return self._bytes().view(STORAGE[self.tensor.type.name]).reshape(self.tensor.shape)

    def dequantized(self, start: int, stop: int) -> np.ndarray:
        """float32 of some of its rows, by gguf-py, which is llama.cpp's own."""
        try:
            from gguf import GGMLQuantizationType
            from gguf.quants import dequantize
        except ModuleNotFoundError:
            problem = Problem("gguf", "gguf, which decodes the types of a GGUF file, is not installed", "")
            raise PlanError(replace(problem, remedy=install_command("inspect"))) from None
        every = self._bytes().reshape(self.tensor.shape[0], -1)[start:stop]
        rows = every.reshape(-1, self.tensor.type.row_bytes(self.tensor.shape[-1]))
        found = dequantize(rows, GGMLQuantizationType(self.tensor.type.id))
        return np.asarray(found, np.float32).reshape(stop - start, *self.tensor.shape[1:])

    def blocks(self) -> np.ndarray:
        """Its rows as they are, uint8 (1, rows, row bytes)."""
        return self._bytes().reshape(1, self.tensor.shape[0], -1)

    def _bytes(self) -> np.ndarray:
        return np.memmap(self.path, np.uint8, "r", self.tensor.start, (self.tensor.nbytes,))


@dataclass(frozen=True)
class _Files:
    """The file, or the shards it is in."""

    paths: list[Path]
    headers: list[GGUFHeader]

    @property
    def header(self) -> GGUFHeader:
        """The fields of the first, the tensors of all."""
        return replace(self.headers[0], tensors=tuple(tensor for _, tensor in self.tensors()))

    @property
    def names(self) -> tuple[tuple[str, ...], ...]:
        """The tensors of each file, in their order."""
        return tuple(tuple(tensor.name for tensor in header.tensors) for header in self.headers)

    def tensors(self) -> Iterator[tuple[Path, StoredTensor]]:
        for path, header in zip(self.paths, self.headers, strict=True):
            yield from ((path, tensor) for tensor in header.tensors)


@dataclass(frozen=True)
class _Again:
    """A file's metadata, and what is asked of the next ones."""

    header: GGUFHeader
    settings: ConversionSettings
    imatrix: Imatrix | None
    kept: tuple[tuple[str, ...], ...] = ()  # the tensors of each file, where the shards of the source are kept

    def volume(self, model: str, mix: Mix) -> tuple[FilePlan, ...]:
        """The files of one type."""
        fields, tensors = self.header.fields, self.header.tensors
        architecture = next((str(f.value) for f in fields if f.key == "general.architecture"), "")
        asked = replace(self.settings.asked, imatrix=self.settings.weighted, in_file_order=bool(self.kept))
        rows = [Tensor(t.name, t.shape, t.type.name) for t in tensors]
        choices = choose(mix, rows, hyper(architecture, fields), asked)
        pairs = zip(tensors, choices, strict=True)
        infos = whole_blocks(TensorInfo(t.name, t.shape, c.type, c.why) for t, c in pairs)
        weighted = any(info.type.values > 1 for info in infos)
        name = f"{self.settings.name or model}-{mix.name}.gguf"
        plan = FilePlan(name, f"gguf/{mix.name}", tuple(self._fields(mix, weighted)), infos)
        return (plan,) if self.settings.split is None else split_plans(plan, self.settings.split, self.kept)

    def _fields(self, mix: Mix, weighted: bool) -> Iterator[Field]:
        """The file's own, with what the new types say in the place of the old."""
        own = {
            FILE_TYPE: Field.uint32(FILE_TYPE, mix.file_type),
            VERSION: Field.uint32(VERSION, QUANTIZATION_VERSION),
        }
        kept = [field for field in self.header.fields if not field.key.startswith(OF_THE_FILE)]
        kept += [own[key] for key in sorted(own.keys() - {field.key for field in kept})]
        for field in kept:
            yield own.get(field.key, field)
            if field.key == VERSION and weighted:
                yield from imatrix_fields(self.settings, self.imatrix)
