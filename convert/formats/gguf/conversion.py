"""A conversion to GGUF, worked out from headers and configs alone: its files, their tensors and types, their sizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from pathlib import Path

import numpy as np

from convert.architectures import Family
from convert.architectures._graph_spec import GraphSpec, LeftOut
from convert.architectures._nearest import family_of
from convert.bundle import Bundle, Model, Role
from convert.errors import ConvertError, PlanError, Problem, StageError
from convert.formats.gguf.demands import EMBEDDING, lacking_weights, strays, ternary_notes, whole_blocks
from convert.formats.gguf.file_plan import FilePlan, TensorInfo
from convert.formats.gguf.general import base_model_notes, general_metadata, size_label
from convert.formats.gguf.imatrix import Imatrix, check_imatrix, coverage, read_imatrix
from convert.formats.gguf.ledger import Ledger, match_tensors
from convert.formats.gguf.projector import projector_spec
from convert.formats.gguf.sentences import dense_tensors, extended, without_lost_head
from convert.formats.gguf.shard_names import Split
from convert.formats.gguf.split import split_plans
from convert.formats.gguf.tensors import (
    CHUNK_VALUES,
    StreamedTensor,
    expert_parameters,
    forecast_tensors,
    spec_tensors,
    with_numbers,
)
from convert.formats.gguf.tokenizer import GGUFTokenizer, read_tokenizer
from convert.formats.gguf.tokenizer_references import Request
from convert.formats.gguf.writer import Group
from convert.gguf_field import Field
from convert.source.checkpoint import LazyTensor, open_bundle, shapes_of
from convert.source.companions import Companions, read_companions
from convert.source.sentences import read_sentences
from quantize.blocks import TYPES
from quantize.coded import CODED
from quantize.mixes import (
    MIXES,
    QUANTIZATION_VERSION,
    Asked,
    Choice,
    Hyper,
    Mix,
    Tensor,
    choose,
)

ENCODER = Field.string("quantize.encoder", "error feedback")
"""What a file says whose blocks are not those that llama-quantize would have written."""


@dataclass(frozen=True)
class Conversion:
    """Everything that is known before the first byte is written."""

    text: Group
    projector: Group | None
    left_out: Mapping[str, LeftOut]
    tied: tuple[tuple[LazyTensor, LazyTensor], ...]  # (left out, kept): must hold the same values
    notes: tuple[str, ...]
    imatrix: Imatrix | None = None  # of the text's tensors
    tokenizer: Request | None = None  # what its proof asks; None where nothing can be asked

    @property
    def groups(self) -> tuple[Group, ...]:
        return (self.text,) if self.projector is None else (self.text, self.projector)


@dataclass(frozen=True)
class ConversionSettings:
    """What a conversion is asked for."""

    types: tuple[str, ...]  # of the language model's files
    mmproj: str | bool | None = None  # the projector's type; None: F16 where the model has vision, False: no projector
    name: str = ""  # start of the file names; the model's where empty
    pre_tokenizer: str | None = None  # llama.cpp's name for it, where the tokenizer's own is not recognized
    asked: Asked = field(default_factory=Asked)  # of the language model's files; its `imatrix` is not looked at
    imatrix: Path | None = None  # file of the importance matrix
    awaited: str = ""  # what that file will be called, where it is yet to be made
    dataset: str = ""  # the name of the text it will be made with, where that is known
    weights_key: str = ""  # of the checkpoint, for a matrix that knows what it was made from; empty: not known yet
    split: Split | None = None  # where files are cut
    refine: bool = False  # whether Gram matrices choose levels and scales
    vocabulary: bool = True  # without it no tokenizer is read: for sizes alone, no file can be written

    @property
    def weighted(self) -> bool:
        """Whether there will be importance weights."""
        return bool(self.imatrix or self.awaited)


def prepare(bundle: Bundle, settings: ConversionSettings) -> Conversion:
    """The conversion of a source bundle into the files asked for.

    Weights that are not there yet (they will be converted from pickles first) are taken to be what config.json
    promises. Raises ConvertError with every problem found.
    """
    companions = read_companions(bundle, tokenizer=False)
    there = bundle.pending or built(bundle)
    family = family_of(companions.config, lambda: shapes_of(open_bundle(bundle).tensors) if there else {})
    problems: list[Problem] = []
    sentences = read_sentences(companions.files)
    specs = _specs(problems, family, companions, settings)
    if problems:
        raise PlanError(*dict.fromkeys(problems))
    specs[0] = extended(specs[0], sentences)
    if there:
        skip_vision = settings.mmproj is False
        found = {**dense_tensors(sentences, companions.files), **open_bundle(bundle).tensors}
        specs[0] = without_lost_head(specs[0], found) if sentences else specs[0]
        ledger = match_tensors(found, specs, family, skip_vision=skip_vision)
        problems += ledger.problems
        tensors = [spec_tensors(spec, [e for e in ledger.entries if e.spec == i]) for i, spec in enumerate(specs)]
    else:
        ledger, tensors = Ledger(), [forecast_tensors(spec) for spec in specs]
    tokenizer = GGUFTokenizer()
    if settings.vocabulary:
        tokenizer = _tokenizer(problems, companions, _vocab_size(specs[0]), settings.pre_tokenizer)
    imatrix = imatrix_of(problems, settings, tensors[0])
    problems += strays(settings.asked, tensors[0])
    if settings.split and settings.split.keep:
        problems.append(Problem("split", "keep: the source is a checkpoint", "a GGUF file in shards, or a size"))
    if problems:
        raise PlanError(*problems)
    specs = [with_numbers(spec, ledger.numbers) for spec in specs]
    about = _About(bundle.model, companions, settings)
    text = about.text(specs[0], tensors[0], imatrix, tokenizer.fields)
    if problems := lacking_weights(settings, text, imatrix):
        raise PlanError(*problems)
    return Conversion(
        text,
        about.projector(specs[1], tensors[1], str(settings.mmproj or "F16")) if len(specs) > 1 else None,
        ledger.left_out,
        ledger.tied,
        (
            *(note for spec in specs for note in spec.notes),
            *companions.notes,
            *base_model_notes(companions.card),
            *tokenizer.notes,
            *ternary_notes(settings.types),
        ),
        imatrix,
        tokenizer.asked,
    )


def _specs(
    problems: list[Problem], family: Family, companions: Companions, settings: ConversionSettings
) -> list[GraphSpec]:
    """What goes into the text file and, where one is made, into the projector's."""
    makers = [partial(family.text, companions.config)]
    if family.vision and settings.mmproj is not False:
        makers.append(partial(projector_spec, family, companions))
    elif settings.mmproj:
        problems.append(Problem("mmproj", "the model has no vision tower", "no mmproj option"))
    specs = []
    for make in makers:
        try:
            specs.append(make())
        except ConvertError as error:
            problems += _problems(error)
    return specs


def imatrix_of(
    problems: list[Problem], settings: ConversionSettings, tensors: Sequence[StreamedTensor]
) -> Imatrix | None:
    """The importance matrix asked for, once it is seen to be one of these tensors."""
    if settings.imatrix is None:
        return None
    try:
        imatrix = read_imatrix(settings.imatrix)
    except ConvertError as error:
        problems += _problems(error)
        return None
    problems += check_imatrix(imatrix, {t.name: t.shape for t in tensors}, settings.weights_key)
    return imatrix


@dataclass(frozen=True)
class _About:
    """Whose files they are, and what is asked of them."""

    model: Model
    companions: Companions
    settings: ConversionSettings

    @property
    def start(self) -> str:
        """What the file names start with."""
        return self.settings.name or self.model.name

    def text(
        self,
        spec: GraphSpec,
        tensors: Sequence[StreamedTensor],
        imatrix: Imatrix | None,
        vocabulary: Sequence[Field],
    ) -> Group:
        asked = replace(self.settings.asked, imatrix=self.settings.weighted)
        start = self.start if self.settings.name or not self.settings.refine else f"{self.start}-refined"
        volumes = []
        for kind in dict.fromkeys(self.settings.types):
            mix = MIXES[kind]
            infos = _infos(mix, spec, tensors, asked)
            weighted = any(info.type.values > 1 for info in infos)
            refined = self.settings.refine and any(info.type.name in CODED for info in infos)
            after = (
                *(imatrix_fields(self.settings, imatrix) if weighted else ()),
                *((ENCODER,) if refined else ()),
                *vocabulary,
            )
            fields = (self._general(tensors, "model") + list(spec.fields), after)
            plan = _plan(f"{start}-{kind}.gguf", mix, spec, fields, infos)
            split = self.settings.split
            volumes.append((plan,) if split is None else split_plans(plan, split))
        return Group(tuple(volumes), tuple(tensors), imatrix.weights if imatrix else None)

    def projector(self, spec: GraphSpec, tensors: Sequence[StreamedTensor], kind: str) -> Group:
        fields = (self._general(tensors, "mmproj") + list(spec.fields), ())
        infos = _infos(MIXES[kind], spec, tensors, Asked())
        plan = _plan(f"mmproj-{self.start}-{kind}.gguf", MIXES[kind], spec, fields, infos)
        return Group(((plan,),), tuple(tensors))

    def _general(self, tensors: Sequence[StreamedTensor], kind: str) -> list[Field]:
        parameters = sum(prod(t.shape) for t in tensors)
        experts, active = expert_parameters(tensors)
        size = f"{experts}x{size_label(active)}" if experts else ""
        return general_metadata(self.companions, self.model, parameters, type=kind, size=size)


def imatrix_fields(settings: ConversionSettings, imatrix: Imatrix | None) -> Sequence[Field]:
    """What llama-quantize says about the matrix it used; without the folder, which says nothing to others."""
    if not settings.weighted:
        return ()
    file = settings.imatrix.name if settings.imatrix else settings.awaited
    imatrix = imatrix or Imatrix({}, (settings.dataset,), chunk_count=1)  # the numbers' size is all that matters
    return (
        Field.string("quantize.imatrix.file", file),
        *(Field.string("quantize.imatrix.dataset", dataset) for dataset in imatrix.datasets[:1]),
        Field.uint32("quantize.imatrix.entries_count", len(imatrix.entries)),
        *((Field.uint32("quantize.imatrix.chunks_count", imatrix.chunk_count),) if imatrix.chunk_count else ()),
    )


def tensor_types(conversion: Conversion) -> Iterator[tuple[str, str, str, str]]:
    """For every tensor of every file: the file's name, its own, its type, and the rule that picked it."""
    for group in conversion.groups:
        for plan in group.plans:
            yield from ((plan.name, info.name, info.type.name, info.why) for info in plan.infos)


def imatrix_lines(conversion: Conversion) -> Iterator[str]:
    """What the importance matrix covers."""
    if conversion.imatrix is not None:
        yield from coverage(conversion.imatrix, {t.name: t.shape for t in conversion.text.tensors})


def built(bundle: Bundle) -> bool:
    """Whether the weights are on the disk; those of a forecast are not."""
    weights = bundle.of(Role.WEIGHTS)
    return bool(weights) and all(a.path.is_absolute() and a.path.is_file() for a in weights)


def prove_tied(conversion: Conversion) -> None:
    """Raise StageError unless every tensor that is left out as a copy holds what the one that is kept holds."""
    for left_out, kept in conversion.tied:
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
    file: str,
    mix: Mix,
    spec: GraphSpec,
    metadata: tuple[Sequence[Field], Sequence[Field]],
    infos: tuple[TensorInfo, ...],
) -> FilePlan:
    """The file of one type; `metadata` is what stands before and after the fields that depend on the type."""
    before, after = metadata
    fields = (
        Field.string("general.architecture", spec.architecture),
        *before,
        Field.uint32("general.file_type", mix.file_type),
        Field.uint32("general.quantization_version", QUANTIZATION_VERSION),
        *after,
    )
    return FilePlan(file, f"gguf/{mix.name}", fields, infos)


def _infos(mix: Mix, spec: GraphSpec, tensors: Sequence[StreamedTensor], asked: Asked) -> tuple[TensorInfo, ...]:
    rows = [Tensor(t.name, t.shape, t.storage) for t in tensors]
    choices = choose(mix, rows, hyper(spec.architecture, spec.fields), asked)
    pairs = ((t, _carried(t) or c) for t, c in zip(tensors, choices, strict=True))
    return whole_blocks(TensorInfo(t.name, t.shape, c.type, c.why) for t, c in pairs)


def _carried(tensor: StreamedTensor) -> Choice | None:
    """The type of blocks that the checkpoint has already, or the one that llama.cpp's graph needs, in every file."""
    if tensor.output.type:
        return Choice(TYPES[tensor.output.type], f"{tensor.output.type} in every file, for llama.cpp's graph")
    packed = tensor.output.packed
    return Choice(TYPES[packed.type], f"{packed.type} blocks of the checkpoint, as they are") if packed else None


def hyper(architecture: str, fields: Iterable[Field]) -> Hyper:
    """What the rules of the mixes ask, from the fields of the file."""
    said = {f.key.removeprefix(f"{architecture}."): f.value for f in fields}

    def number(key: str, default: int) -> int:
        value = said.get(key, default)
        if isinstance(value, tuple):  # one a layer; llama.cpp's rules look at the first
            value = value[0] if value else default
        return value if isinstance(value, int) else default

    heads = number("attention.head_count", 1)
    return Hyper(
        architecture,
        layers=number("block_count", 0),
        heads=heads,
        kv_heads=number("attention.head_count_kv", heads),
        experts=number("expert_count", 0),
    )


def _problems(error: ConvertError) -> list[Problem]:
    return [p if isinstance(p, Problem) else Problem("gguf", p) for p in error.problems]


def _vocab_size(text: GraphSpec) -> int:
    """Rows of the token embedding."""
    return next(t.shape[0] for s in text.tensors for t in s.outputs if t.name == EMBEDDING)


def _tokenizer(problems: list[Problem], companions: Companions, size: int, pre_tokenizer: str | None) -> GGUFTokenizer:
    try:
        return read_tokenizer(companions, size, pre_tokenizer)
    except ConvertError as error:
        problems += _problems(error)
        return GGUFTokenizer()
