"""A conversion to GGUF, worked out from headers and configs alone: its files, their tensors and types, their sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from convert import architectures
from convert.architectures._part import LeftOut, Part
from convert.bundle import Bundle, Role
from convert.checkpoint import LazyTensor, open_bundle
from convert.companions import Companions, read_companions
from convert.errors import ConvertError, PlanError, Problem, StageError
from convert.gguf.fields import Field
from convert.gguf.ledger import settle
from convert.gguf.tensors import CHUNK_VALUES, OutputTensor, forecast_tensors, part_tensors
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


def prepare(bundle: Bundle, types: Sequence[str], mmproj: str | bool | None = None, name: str = "") -> Conversion:
    """The conversion of a source bundle into files of `types`, named after `name` or the model.

    `mmproj` is the projector's type: None for F16 where the model sees, False for no projector. Weights that are not
    there yet (they will be converted from pickles first) are taken to be what config.json promises.

    Raises ConvertError with every problem found.
    """
    companions = read_companions(bundle)
    family = architectures.find(companions.config)
    problems: list[Problem] = []
    text = _part(problems, family.text, companions.config)
    seeing = getattr(family, "vision", None)
    vision = _part(problems, seeing, companions.config, companions.preprocessor) if seeing else None
    if mmproj and seeing is None:
        problems.append(Problem("mmproj", "the model has no vision tower", "no mmproj option"))
    if text is None or problems:
        raise PlanError(*problems)
    parts, skipped = ((text,), (vision,)) if mmproj is False and vision else ((text, *([vision] if vision else [])), ())
    if built(bundle):
        ledger = settle(open_bundle(bundle).tensors, parts, skipped, getattr(family, "RENAMES", ()))
        problems += ledger.problems
        tensors = [part_tensors(part, tuple(e for e in ledger.entries if e.part == i)) for i, part in enumerate(parts)]
        left_out, twins = ledger.left_out, ledger.twins
    else:
        tensors, left_out, twins = [forecast_tensors(part) for part in parts], {}, ()
    problems += _vocabulary_problems(companions, _vocab_size(text))
    if problems:
        raise PlanError(*problems)
    name = name or bundle.model.name
    files = _Files(bundle, companions, name)
    return Conversion(
        Group(files.text(text, tensors[0], types), tensors[0]),
        Group((files.projector(parts[1], tensors[1], str(mmproj or "F16")),), tensors[1]) if len(parts) > 1 else None,
        left_out,
        twins,
        tuple(note for part in parts for note in part.notes),
    )


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


@dataclass(frozen=True)
class _Files:
    """Makes the plans of a model's files."""

    bundle: Bundle
    companions: Companions
    name: str

    def text(self, part: Part, tensors: Sequence[OutputTensor], types: Sequence[str]) -> tuple[FilePlan, ...]:
        from convert.gguf.general import general_metadata
        from convert.gguf.vocabulary import vocabulary_metadata

        parameters = sum(prod(t.shape) for t in tensors)
        general = general_metadata(self.companions, self.bundle.model, parameters)
        vocabulary = vocabulary_metadata(self.companions, _vocab_size(part))
        return tuple(
            _plan(f"{self.name}-{kind}.gguf", kind, (part, general, vocabulary), tensors)
            for kind in dict.fromkeys(types)
        )

    def projector(self, part: Part, tensors: Sequence[OutputTensor], kind: str) -> FilePlan:
        from convert.gguf.general import general_metadata

        parameters = sum(prod(t.shape) for t in tensors)
        general = general_metadata(self.companions, self.bundle.model, parameters, type="mmproj")
        return _plan(f"mmproj-{self.name}-{kind}.gguf", kind, (part, general, []), tensors)


def _plan(
    name: str, kind: str, metadata: tuple[Part, Sequence[Field], Sequence[Field]], tensors: Sequence[OutputTensor]
) -> FilePlan:
    part, general, vocabulary = metadata
    mix = MIXES[kind]
    fields = (
        Field.string("general.architecture", part.architecture),
        *general,
        *part.fields,
        Field.uint32("general.file_type", mix.file_type),
        Field.uint32("general.quantization_version", QUANTIZATION_VERSION),
        *vocabulary,
    )
    infos = tuple(TensorInfo(t.name, t.shape, mix.choose(t.name, t.shape).type) for t in tensors)
    return FilePlan(name, f"gguf/{kind}", fields, infos)


def _part(problems: list[Problem], make: object, *arguments: object) -> Part | None:
    """What `make` makes, or None when it refuses; its problems are added."""
    assert callable(make)
    try:
        part = make(*arguments)
    except ConvertError as error:
        problems += [p for p in error.problems if isinstance(p, Problem)]
        return None
    assert isinstance(part, Part)
    return part


def _vocab_size(text: Part) -> int:
    """Rows of the token embedding."""
    return next(t.shape[0] for w in text.wanted for t in w.targets if t.name == "token_embd.weight")


def _vocabulary_problems(companions: Companions, vocab_size: int) -> list[Problem]:
    from convert.gguf.vocabulary import check_vocabulary

    return list(check_vocabulary(companions, vocab_size))


def _source_bytes(tensor: OutputTensor) -> int:
    if tensor.source is None:
        return 0
    return prod(tensor.shape) * tensor.source.nbytes // max(1, prod(tensor.source.shape))
