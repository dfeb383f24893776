"""A conversion to GGUF, worked out from headers and configs alone: its files, their tensors and types, their sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from types import ModuleType

import numpy as np

from convert import architectures
from convert.architectures._part import LeftOut, Part
from convert.bundle import Bundle, Model, Role
from convert.checkpoint import LazyTensor, open_bundle
from convert.companions import Companions, read_companions
from convert.errors import ConvertError, PlanError, Problem, StageError
from convert.gguf.fields import Field
from convert.gguf.general import general_metadata
from convert.gguf.ledger import Ledger, settle
from convert.gguf.tensors import CHUNK_VALUES, OutputTensor, forecast_tensors, part_tensors
from convert.gguf.vocabulary import vocabulary_metadata, vocabulary_notes
from convert.gguf.writer import FilePlan, TensorInfo
from quantize.mixes import MIXES, QUANTIZATION_VERSION


@dataclass(frozen=True)
class Group:
    """Files that hold the same tensors, each in types of its own."""

    plans: tuple[FilePlan, ...]
    tensors: tuple[OutputTensor, ...]

    @property
    def source_bytes(self) -> int:
        """Bytes that are read from the checkpoint."""
        return sum(_source_bytes(t) for t in self.tensors)


@dataclass(frozen=True)
class Conversion:
    """Everything that is known before the first byte is written."""

    text: Group
    projector: Group | None
    left_out: Mapping[str, LeftOut]
    twins: tuple[tuple[LazyTensor, LazyTensor], ...]  # (left out, kept): must hold the same values
    notes: tuple[str, ...]

    @property
    def groups(self) -> tuple[Group, ...]:
        return (self.text,) if self.projector is None else (self.text, self.projector)


@dataclass(frozen=True)
class Wish:
    """What a conversion is asked for."""

    types: tuple[str, ...]  # of the language model's files
    mmproj: str | bool | None = None  # the projector's type; None: F16 where the model sees, False: no projector
    name: str = ""  # start of the file names; the model's where empty
    pre_tokenizer: str | None = None  # llama.cpp's name for it, where the tokenizer's own is not recognized


def prepare(bundle: Bundle, wish: Wish) -> Conversion:
    """The conversion of a source bundle into the files wished for.

    Weights that are not there yet (they will be converted from pickles first) are taken to be what config.json
    promises. Raises ConvertError with every problem found.
    """
    companions = read_companions(bundle)
    family = architectures.find(companions.config)
    problems: list[Problem] = []
    parts = _parts(problems, family, companions, wish)
    if problems:
        raise PlanError(*dict.fromkeys(problems))
    if built(bundle):
        skipped = family.VISION if wish.mmproj is False and hasattr(family, "vision") else ""
        ledger = settle(open_bundle(bundle).tensors, parts, skipped, getattr(family, "RENAMES", ()))
        problems += ledger.problems
        tensors = [part_tensors(part, [e for e in ledger.entries if e.part == i]) for i, part in enumerate(parts)]
    else:
        ledger, tensors = Ledger(), [forecast_tensors(part) for part in parts]
    vocabulary = _vocabulary(problems, companions, _vocab_size(parts[0]), wish.pre_tokenizer)
    if problems:
        raise PlanError(*problems)
    about = _About(bundle.model, companions, wish.name or bundle.model.name)
    return Conversion(
        about.text(parts[0], tensors[0], wish.types, vocabulary.fields),
        about.projector(parts[1], tensors[1], str(wish.mmproj or "F16")) if len(parts) > 1 else None,
        ledger.left_out,
        ledger.twins,
        (*(note for part in parts for note in part.notes), *companions.notes, *vocabulary.notes),
    )


def _parts(problems: list[Problem], family: ModuleType, companions: Companions, wish: Wish) -> list[Part]:
    """What goes into the text file and, where one is made, into the projector's."""
    makers = [partial(family.text, companions.config)]
    if hasattr(family, "vision") and wish.mmproj is not False:
        makers.append(partial(family.vision, companions.config, companions.preprocessor))
    elif wish.mmproj:
        problems.append(Problem("mmproj", "the model has no vision tower", "no mmproj option"))
    parts = []
    for make in makers:
        try:
            parts.append(make())
        except ConvertError as error:
            problems += _problems(error)
    return parts


@dataclass(frozen=True)
class _About:
    """Whose files they are."""

    model: Model
    companions: Companions
    start: str  # of the file names

    def text(
        self, part: Part, tensors: Sequence[OutputTensor], types: Sequence[str], vocabulary: Sequence[Field]
    ) -> Group:
        fields = (self._general(tensors, "model") + list(part.fields), vocabulary)
        plans = (_plan(self.start, kind, part, fields, tensors) for kind in dict.fromkeys(types))
        return Group(tuple(plans), tuple(tensors))

    def projector(self, part: Part, tensors: Sequence[OutputTensor], kind: str) -> Group:
        fields = (self._general(tensors, "mmproj") + list(part.fields), ())
        return Group((_plan(f"mmproj-{self.start}", kind, part, fields, tensors),), tuple(tensors))

    def _general(self, tensors: Sequence[OutputTensor], kind: str) -> list[Field]:
        parameters = sum(prod(t.shape) for t in tensors)
        return general_metadata(self.companions, self.model, parameters, type=kind)


def built(bundle: Bundle) -> bool:
    """Whether the weights are on the disk; those of a forecast are not."""
    weights = bundle.of(Role.WEIGHTS)
    return bool(weights) and all(a.path.is_absolute() and a.path.is_file() for a in weights)


def prove_twins(conversion: Conversion) -> None:
    """Raise StageError unless every tensor that is left out as a copy holds what the one that is kept holds."""
    for left_out, kept in conversion.twins:
        if left_out.dtype == kept.dtype and left_out.shape == kept.shape:
            a, b = left_out.load().reshape(-1), kept.load().reshape(-1)
            same = all(
                np.array_equal(a[i : i + CHUNK_VALUES].view(np.uint8), b[i : i + CHUNK_VALUES].view(np.uint8))
                for i in range(0, a.size, CHUNK_VALUES)
            )
            left_out.release()
            kept.release()
            if same:
                continue
        raise StageError(
            f"tensor {left_out.name}",
            f"differs from {kept.name}, though config.json says they are tied",
            "equal values",
            "set tie_word_embeddings to false in config.json: transformers does not tie such a model either",
        )


def _plan(
    start: str,
    kind: str,
    part: Part,
    metadata: tuple[Sequence[Field], Sequence[Field]],
    tensors: Sequence[OutputTensor],
) -> FilePlan:
    """The file of one type; `metadata` is what stands before and after the fields that depend on the type."""
    mix = MIXES[kind]
    before, after = metadata
    fields = (
        Field.string("general.architecture", part.architecture),
        *before,
        Field.uint32("general.file_type", mix.file_type),
        Field.uint32("general.quantization_version", QUANTIZATION_VERSION),
        *after,
    )
    infos = tuple(TensorInfo(t.name, t.shape, mix.choose(t.name, t.shape).type) for t in tensors)
    return FilePlan(f"{start}-{kind}.gguf", f"gguf/{kind}", fields, infos)


def _problems(error: ConvertError) -> list[Problem]:
    return [p if isinstance(p, Problem) else Problem("gguf", p) for p in error.problems]


def _vocab_size(text: Part) -> int:
    """Rows of the token embedding."""
    return next(t.shape[0] for w in text.wanted for t in w.targets if t.name == "token_embd.weight")


@dataclass(frozen=True)
class _Vocabulary:
    fields: Sequence[Field] = ()
    notes: Sequence[str] = ()


def _vocabulary(problems: list[Problem], companions: Companions, size: int, pre_tokenizer: str | None) -> _Vocabulary:
    try:
        fields = vocabulary_metadata(companions, size, pre_tokenizer=pre_tokenizer)
        return _Vocabulary(fields, vocabulary_notes(companions, size, pre_tokenizer=pre_tokenizer))
    except ConvertError as error:
        problems += _problems(error)
        return _Vocabulary()


def _source_bytes(tensor: OutputTensor) -> int:
    if tensor.source is None:
        return 0
    return prod(tensor.shape) * tensor.source.nbytes // max(1, prod(tensor.source.shape))
