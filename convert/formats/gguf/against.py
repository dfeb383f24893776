"""How far the tensors of a GGUF file are from the checkpoint it was made of, value by value.

The file is decoded by gguf-py, llama.cpp's own decoder in numpy, so that what is measured is what others will read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from math import isclose
from pathlib import Path

import numpy as np

from convert import architectures
from convert.architectures._graph_spec import GraphSpec
from convert.bundle import Artifact, Bundle, Model, Role
from convert.distribution import install_command
from convert.errors import InputError, PlanError, StageError
from convert.formats.facts import Hyperparameter, TensorError, TensorPair
from convert.formats.gguf.ledger import match_tensors
from convert.formats.gguf.projector import projector_spec
from convert.formats.gguf.reader import GGUFHeader, StoredTensor, read_gguf_header
from convert.formats.gguf.sentences import dense_tensors, extended, without_lost_head
from convert.formats.gguf.tensors import StreamedTensor, spec_tensors, with_numbers
from convert.gguf_field import Field
from convert.source.checkpoint import open_checkpoint
from convert.source.companions import collect, read_companions
from convert.source.sentences import read_sentences, sentence_files
from convert.source.untrusted import shown
from quantize.floats import to_float32


def tensor_errors(path: Path, folder: Path, most_values: int | None = None) -> Iterator[TensorError]:
    """The error of every tensor in the GGUF file at `path`, in its order, against the checkpoint in `folder`.

    Reads a few MiB at a time; with `most_values`, about so many of each tensor, in pieces spread over it. Raises
    InputError where the file is not of this checkpoint, and StageError where gguf-py is not installed or cannot decode
    a type.
    """
    header = read_gguf_header(path)
    architecture = next((f.value for f in header.fields if f.key == "general.architecture"), None)
    sources = _sources(folder, projector=architecture == "clip")
    for stored in header.tensors:
        source = sources.get(stored.name)
        if source is None or source.shape != stored.shape:
            got = f"has the tensor {shown(stored.name)} {list(stored.shape)}"
            wanted = f"shape {list(source.shape)}" if source else f"the tensors that {folder} makes"
            raise InputError(str(path), got, wanted, "name the checkpoint that the file was made from")
    data = np.memmap(path, np.uint8, "r")
    for stored in header.tensors:
        yield _error(stored, data, sources[stored.name], most_values)


TIED = {"output.weight": "token_embd.weight"}  # a head that the source ties and the file has once more


def tensor_pairs(paths: Sequence[Path], folder: Path) -> Iterator[TensorPair]:
    """The tensors of the files at `paths` that the checkpoint in `folder` makes, in their order.

    One that is missing or has another shape is a difference of what the file states: see `hyperparameters`.
    """
    for path in paths:
        header = read_gguf_header(path)
        sources = _sources(folder, projector=_architecture(header) == "clip")
        data = np.memmap(path, np.uint8, "r")
        for stored in header.tensors:
            source = sources.get(TIED.get(stored.name, "") if stored.name not in sources else stored.name)
            if source is not None and source.shape == stored.shape:
                yield TensorPair(stored.name, stored.type.name, stored.shape, partial(_pieces, stored, data, source))


def _pieces(
    stored: StoredTensor, data: np.ndarray, source: StreamedTensor, every: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    row_bytes = stored.type.row_bytes(source.row_values)
    at = stored.start
    for number, values in enumerate(source.chunks()):
        size = len(values) * row_bytes
        if number % every == 0:
            decoded = _decoded(stored, data[at : at + size].reshape(len(values), row_bytes))
            wanted = _decoded(stored, values) if source.output.packed else _plain(values, source.storage)
            yield decoded, wanted.astype(np.float32)
        at += size


# Numbers without which a file computes something else; another writer may leave out the others and mean the usual.
TELLING = ("sliding_window", "softcapping", "logit_scale", "embedding_scale", "residual_scale", "attention.scale")
OTHERS_LOOK = (
    "rope.freq_base",
    "rope.scaling",
    "context_length",
    "image_mean",
    "image_std",
    "pixels",
    "vocab_size",
)  # with the settings


def hyperparameters(paths: Sequence[Path], folder: Path) -> Iterator[Hyperparameter]:
    """The numbers of the model in the files' metadata, as our converter would write them, and tensors by name."""
    headers = [read_gguf_header(path) for path in paths]
    text = [h for h in headers if _architecture(h) != "clip"]
    for group in (text, [h for h in headers if h not in text]):
        if group:
            spec, tensors = _spec(folder, projector=group is not text)
            said = {f.key: f.value for f in group[0].fields}
            yield Hyperparameter("general.architecture", spec.architecture, said.get("general.architecture"))
            for field in filter(_is_compared, spec.fields):
                if field.key in said or any(word in field.key for word in TELLING):
                    yield Hyperparameter(field.key, field.value, _as_wanted(field.value, said.get(field.key)))
            yield from _scores(said)
            yield from _tensor_shapes(group, tensors)


def _scores(said: Mapping[str, object]) -> Iterator[Hyperparameter]:
    """Whether tokens that are merged by their scores have any: where all are alike, the first pair always wins."""
    scores = said.get("tokenizer.ggml.scores")
    if said.get("tokenizer.ggml.model") in ("llama", "t5") and isinstance(scores, tuple):
        got = "scores that differ" if len(set(scores)) > 1 else "one score for all tokens"
        yield Hyperparameter("tokenizer.ggml.scores", "scores that differ", got)


def _is_compared(field: Field) -> bool:
    return not any(word in field.key for word in OTHERS_LOOK)


def _tensor_shapes(headers: Sequence[GGUFHeader], sources: Mapping[str, StreamedTensor]) -> Iterator[Hyperparameter]:
    found = {t.name: t.shape for h in headers for t in h.tensors}
    for name, source in sources.items():
        if name != "rope_freqs.weight":
            shape = list(found[name]) if name in found else "missing"
            yield Hyperparameter(f"tensor {name}", list(source.shape), shape)
    for name in found.keys() - sources.keys() - {"output.weight", "rope_freqs.weight"}:
        yield Hyperparameter(f"tensor {shown(name)}", "not of this model", list(found[name]))


def _as_wanted(wanted: object, got: object) -> object:
    """A float as the source has it where it is the same in float32."""
    same = isinstance(wanted, float) and isinstance(got, float) and isclose(wanted, got, rel_tol=1e-5)
    return wanted if same else got


def _architecture(header: GGUFHeader) -> object:
    return next((f.value for f in header.fields if f.key == "general.architecture"), None)


def by_type(errors: Iterable[TensorError]) -> Iterator[TensorError]:
    """The errors of all tensors of a type taken together; as `name` how many they are."""
    groups: dict[str, list[TensorError]] = {}
    for error in errors:
        groups.setdefault(error.type, []).append(error)
    for kind, group in groups.items():
        yield TensorError(
            f"{len(group)} tensors",
            kind,
            sum(e.values for e in group),
            sum(e.squared_error for e in group),
            sum(e.squared_source for e in group),
            max(e.largest for e in group),
        )


def error_lines(errors: Iterable[TensorError]) -> Iterator[str]:
    """A table, line by line as the errors come, and then a line a type."""
    seen: list[TensorError] = []
    for error in errors:
        if not seen:
            yield f"{'tensor':30}  {'type':7}  {'rmse':>10}  {'relative':>9}  {'largest':>10}"
        seen.append(error)
        yield _line(error)
    yield ""
    yield from map(_line, by_type(seen))


def _line(error: TensorError) -> str:
    numbers = f"{error.rmse:10.3e}  {100 * error.relative:8.4f}%  {error.largest:10.3e}"
    return f"{error.name:30}  {error.type:7}  {numbers}"


def _sources(folder: Path, *, projector: bool) -> Mapping[str, StreamedTensor]:
    """GGUF tensor name -> where its values are in the checkpoint. Raises ConvertError for one we cannot convert."""
    return _spec(folder, projector=projector)[1]


def _spec(folder: Path, *, projector: bool) -> tuple[GraphSpec, Mapping[str, StreamedTensor]]:
    """What the family says of the file, and the tensors of it by their names."""
    checkpoint = open_checkpoint(folder)
    family = architectures.find(checkpoint.config)
    specs = [family.text(checkpoint.config)]
    if projector and family.vision:
        roles = {role: tuple(Artifact("json", p, 0) for p in paths) for role, paths in collect(folder).items()}
        companions = read_companions(Bundle(Model(folder.name), {Role.WEIGHTS: (), **roles}))
        specs.append(projector_spec(family, companions))
    files = sentence_files(folder)
    sentences = read_sentences(files)
    found = {**dense_tensors(sentences, files), **checkpoint.tensors}
    specs[0] = extended(specs[0], sentences)
    specs[0] = without_lost_head(specs[0], found) if sentences else specs[0]
    ledger = match_tensors(found, specs, family, skip_vision=len(specs) == 1)
    if ledger.problems:
        raise PlanError(*ledger.problems)
    number = 1 if len(specs) > 1 else 0
    tensors = spec_tensors(specs[number], [e for e in ledger.entries if e.spec == number])
    return with_numbers(specs[number], ledger.numbers), {tensor.name: tensor for tensor in tensors}


def _error(stored: StoredTensor, data: np.ndarray, source: StreamedTensor, most_values: int | None) -> TensorError:
    row_bytes = stored.type.row_bytes(source.row_values)
    squared_error = squared_source = largest = 0.0
    total = source.rows * source.row_values
    every = 1 if most_values is None else max(1, total // max(1, most_values))
    at, seen = stored.start, 0
    for number, values in enumerate(source.chunks()):
        size = len(values) * row_bytes
        if number % every:
            at += size
            continue
        seen += len(values) * source.row_values
        decoded = _decoded(stored, data[at : at + size].reshape(len(values), row_bytes))
        wanted = _decoded(stored, values) if source.output.packed else _plain(values, source.storage)
        difference = decoded - wanted
        squared_error += float(np.vdot(difference, difference))
        squared_source += float(np.vdot(wanted, wanted))
        largest = max(largest, float(np.abs(difference).max(initial=0.0)))
        at += size
    return TensorError(stored.name, stored.type.name, seen, squared_error, squared_source, largest)


def _plain(values: np.ndarray, storage: str) -> np.ndarray:
    """float64 of values as a checkpoint stores them."""
    if storage == "BF16":
        values = to_float32(np.require(values, requirements=("C", "A")))
    return values.astype(np.float64)


def _decoded(stored: StoredTensor, rows: np.ndarray) -> np.ndarray:
    """float32 values of rows as the file holds them."""
    try:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize
    except ModuleNotFoundError:
        raise StageError("inspect", "gguf is not installed", "", install_command("inspect")) from None
    try:
        return np.asarray(dequantize(rows, GGMLQuantizationType(stored.type.id)), np.float32)
    except (NotImplementedError, ValueError):
        raise StageError(
            f"tensor {stored.name}", f"is of type {stored.type.name}", "a type that gguf-py decodes"
        ) from None
