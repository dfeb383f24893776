"""The folder that onnxruntime-genai's `generate()` reads, written from the same traced graphs as the portable ones.

    model.onnx       the decoder, its attention in the runtime's own kernel (genai_attention.py)
    embedding.onnx   of a model that sees: tokens, and rows of image_features where the image's tokens stand
    vision.onnx      of a model that sees: pixel_values, image_grid_thw -> image_features
    genai_config.json, genai_processor.json   see genai_config.py

Weights are those of the other precisions: int4 and int8 have the same integers. Nothing of onnxruntime-genai is needed
to write it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from convert.architectures import TEXT_GRAPH
from convert.bundle import Artifact, Bundle, Role
from convert.errors import ConvertError, InputError, Problem, StageError
from convert.files import HashedFile
from convert.formats.onnx import export as graphs
from convert.formats.onnx import families, genai_config
from convert.formats.onnx.layouts import GENAI
from convert.progress import Progress
from convert.source.companions import ROLES, read_companions

if TYPE_CHECKING:
    import onnx_ir as ir
    from transformers import PretrainedConfig

    from convert.formats.onnx.families import TracedGraph

PRECISIONS = ("fp32", "fp16", "int8", "int4")
TOOLS = ("onnx", "onnx-ir", "onnxscript", "onnxruntime", "torch", "transformers")
GRAPH, EMBEDDING, VISION = "model", "embedding", "vision"
CONFIG, PROCESSOR = "genai_config.json", "genai_processor.json"
WITH_IMAGES = ("qwen2_5_vl",)
"""Cuts of families whose images onnxruntime-genai processes and places as the model does."""
NOT_ITS = ("layout", "weights", "opset", "pooling")  # options of the portable flavor that the folder has no place for
CARRIED = frozenset(ROLES.values()) - {Role.CARD}
JSON_BYTES = 2 << 10


class Asked(Protocol):
    """What of ONNXOptions may not fit the folder."""

    @property
    def precision(self) -> str | tuple[str, ...]: ...
    @property
    def model_fields_set(self) -> set[str]: ...


def check(options: Asked, source: Bundle) -> list[Problem]:
    """What keeps the folder from being made: options, a model without graphs, one the runtime cannot generate from."""
    problems = _option_problems(options)
    try:
        prepared = graphs.prepare(source)
        _cut(prepared)
        return [*problems, *prepared.ledger.problems]
    except ConvertError as error:
        return [*problems, *(p if isinstance(p, Problem) else Problem("onnx", p) for p in error.problems)]


def forecast(source: Bundle, settings: graphs.ExportSettings) -> Bundle:
    """The bundle that `export` will return, with sizes that are close."""
    from convert.formats.onnx import sizes

    prepared, (precision, *_) = graphs.prepare(source), settings.precisions
    names = _names(_cut(prepared))
    found = sizes.forecast(source, _here(settings))
    files = [*found.of(Role.WEIGHTS), *found.of(Role.PROJECTOR)]
    data = sum(file.size for file in files if file.path.suffix != ".onnx") + _table_bytes(prepared.config)
    graph = sum(file.size for file in files if file.path.suffix == ".onnx")
    known = {f"{GRAPH}.onnx": graph, f"{GRAPH}.onnx_data": data}
    listed = [f"{name}{ending}" for name in names for ending in (".onnx", ".onnx_data")]
    listed += [CONFIG, *([PROCESSOR] if VISION in names else [])]
    made = [Artifact(_kind(name, precision), Path(name), known.get(name, JSON_BYTES)) for name in listed]
    return source.with_(weights=tuple(made), projector=(), imatrix=(), report=(), **_carried_to(source))


def _table_bytes(config: PretrainedConfig) -> int:
    """Bytes of cosines and sines of every position, where attention turns by a table."""
    facts = genai_config.Facts.of(config)
    return facts.context * facts.head_size * 4


def notes(options: Asked) -> list[str]:
    """What to know before the run."""
    del options
    return ["genai: its attention takes no padding in front of a text; onnxruntime-genai puts none there"]


def export(source: Bundle, settings: graphs.ExportSettings, out: Path, progress: Progress) -> Bundle:
    """The folder, written into `out`. Raises ConvertError before a byte is written when the model does not fit."""
    from convert.formats.onnx import bind, write

    prepared, (precision, *_), settings = graphs.prepare(source), settings.precisions, _here(settings)
    if prepared.ledger.problems:
        first = prepared.ledger.problems[0]
        raise InputError(first.where, first.got, first.wanted, first.remedy)
    bind.prove_tied(prepared.ledger)
    traced = _traced(_graphs(prepared), progress)
    bind.check_used(prepared.ledger, bind.used(traced.values()).__contains__)
    files: list[Artifact] = []
    for name, hollow in traced.items():
        model = graphs.in_precision(hollow, prepared.ledger, precision, settings, False)
        if name == GRAPH:
            _fuse(model, prepared.config, progress)
        graphs.label(model, precision, source, progress.key)
        names = settings.names(name, precision)
        progress.start(f"writing {names.graph}", sum(place.size for place in write.layout(write.tensors_of(model), {})))
        graph, data = write.write(model, out, names, {}, progress)
        files += [replace(file, kind=_kind(file.path.name, precision)) for file in (graph, *data)]
        if name == GRAPH:
            inputs = [value.name for value in model.graph.inputs]
    files += _configs(source, prepared.config, inputs, VISION in traced, precision, out, progress)
    return source.with_(weights=tuple(files), projector=(), imatrix=(), report=(), **_copied(source, out))


# ---- options


def _here(settings: graphs.ExportSettings) -> graphs.ExportSettings:
    """The settings of a folder whose files have the names that genai_config.json says."""
    return replace(settings, layout=GENAI, shared=False)


def _option_problems(options: Asked) -> list[Problem]:
    problems = []
    asked = [options.precision] if isinstance(options.precision, str) else list(options.precision)
    if len(asked) > 1:
        remedy = "make a stage for each: generate() wants one model in a folder"
        problems.append(Problem("precision", f"{', '.join(asked)} with flavor: genai", "one", remedy))
    for precision in asked:
        if precision not in PRECISIONS:
            got = f"{precision} with flavor: genai"
            problems.append(Problem("precision", got, " or ".join(PRECISIONS), "flavor: portable has the others"))
    foreign = [name for name in NOT_ITS if name in options.model_fields_set]
    return problems + [Problem(name, "flavor: genai has no such option", "", "leave it out") for name in foreign]


# ---- the graphs


def _cut(prepared: graphs.Prepared) -> str:
    """The name of the family's cut. Raises InputError for one that onnxruntime-genai does not run."""
    for name in (TEXT_GRAPH, *WITH_IMAGES):
        if families.load(name) is prepared.cut:
            return name
    kind = prepared.config.model_type
    got = f"onnxruntime-genai has no pipeline that is known here for {kind}"
    raise InputError("config.json", got, f"a text model, or {', '.join(WITH_IMAGES)}", "use `flavor: portable`")


def _names(cut: str) -> tuple[str, ...]:
    return (GRAPH,) if cut == TEXT_GRAPH else (GRAPH, EMBEDDING, VISION)


def _graphs(prepared: graphs.Prepared) -> dict[str, TracedGraph]:
    """Name of a file -> what is traced for it."""
    cut = _cut(prepared)
    parts = prepared.cut.parts(prepared.config)
    decoder = next(part for part in parts if "logits" in part.outputs)
    if cut == TEXT_GRAPH:
        return {GRAPH: decoder}
    from convert.formats.onnx.genai_embedding import with_images

    embedder = next(part for part in parts if tuple(part.inputs) == ("input_ids",))
    vision = next(part for part in parts if "pixel_values" in part.inputs)
    seen = replace(vision, outputs=(genai_config.FEATURES,), output_axes={genai_config.FEATURES: {0: "units"}})
    return {GRAPH: decoder, EMBEDDING: with_images(embedder, prepared.config), VISION: seen}


def _traced(parts: Mapping[str, TracedGraph], progress: Progress) -> dict[str, ir.Model]:
    from convert.formats.onnx import trace
    from convert.formats.onnx.hollow import attention_nodes

    progress.start("tracing " + ", ".join(parts), len(parts), "graphs")
    traced = {}
    for name, part in parts.items():
        with attention_nodes():
            traced[name] = trace.trace(part)
        progress.advance(1)
    return traced


def _fuse(model: ir.Model, config: PretrainedConfig, progress: Progress) -> None:
    from convert.formats.onnx import genai_attention

    facts = genai_config.Facts.of(config)
    if facts.chunked:
        raise StageError("onnx", "a layer attends in chunks, and the runtime's kernel knows windows only", "a window")
    turned = genai_attention.fuse(model, genai_attention.Shape(facts.context, facts.windows))
    progress.note(f"{len(facts.windows)} attentions in the runtime's kernel, {turned} with their rotation")


# ---- the bundle


def _kind(name: str, precision: str) -> str:
    return f"{'onnx-genai' if name == f'{GRAPH}.onnx' else 'onnx-part'}/{precision}"


def _configs(  # noqa: PLR0913, PLR0917 - all that both files say
    source: Bundle,
    config: PretrainedConfig,
    inputs: Sequence[str],
    sees: bool,
    precision: str,
    out: Path,
    progress: Progress,
) -> list[Artifact]:
    """genai_config.json and, of a model that sees, what its processor reads."""
    companions = read_companions(source)
    documents = {CONFIG: genai_config.document(companions, genai_config.Facts.of(config), inputs, sees, progress)}
    if sees:
        documents[PROCESSOR] = genai_config.processor(companions)
    made = []
    for name, document in documents.items():
        with HashedFile(out / name) as file:
            file.write((json.dumps(document, indent=4) + "\n").encode())
        made.append(file.artifact(_kind(name, precision)))
    return made


def _carried_to(source: Bundle) -> dict[str, tuple[Artifact, ...]]:
    return {
        role.value: tuple(replace(a, path=graphs.inner_name(a.path), sha256="") for a in source.of(role))
        for role in sorted(CARRIED)
        if source.of(role)
    }


def _copied(source: Bundle, out: Path) -> dict[str, tuple[Artifact, ...]]:
    """The source's own companions, in the folder."""
    return {
        role.value: tuple(graphs.copy(a.path, out / graphs.inner_name(a.path), a.kind) for a in source.of(role))
        for role in sorted(CARRIED)
        if source.of(role)
    }
