"""A checkpoint -> a folder of ONNX graphs: every part traced once, written in every precision that was asked for."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from convert.bundle import Artifact, Bundle, Model, Pending, Role
from convert.distribution import RELEASE
from convert.errors import ConvertError, InputError, Problem
from convert.files import HashedFile
from convert.formats.onnx import families
from convert.formats.onnx.blocks import Encode, Int4, rounded
from convert.formats.onnx.layouts import FLAT, HUB, Layout, Names, rename
from convert.formats.onnx.origin import origin
from convert.formats.onnx.supports import STAGE, read_kind
from convert.progress import Progress
from convert.source.checkpoint import SAFETENSORS
from convert.source.companions import ROLES

if TYPE_CHECKING:
    import onnx_ir as ir
    from transformers import PretrainedConfig

    from convert.formats.onnx.bind import Ledger
    from convert.formats.onnx.joined import Stored
    from convert.source.checkpoint import Checkpoint

INT4 = ("int4", "q4f16")
HALVES = {"fp16": "F16", "bf16": "BF16"}
INNER = re.compile(r"additional_chat_templates|[0-9]_(Pooling|Dense)")  # folders of companions
PROJECTORS = ("vision_encoder",)  # graphs that turn an image into embeddings


Beyond = Callable[["ir.Model"], frozenset[str] | None]


@dataclass(frozen=True)
class ExportSettings:
    """What to make. `keep` None leaves it to each precision which layers stay in float32."""

    precisions: tuple[str, ...]
    shared: bool = False
    keep: tuple[str, ...] | None = None
    int4: Int4 = field(default_factory=Int4)
    encode: Encode = rounded  # who makes the numbers of int4
    changed: Mapping[str, Stored] = field(default_factory=dict)  # in int4: tensors instead of the checkpoint's
    beyond: Beyond | None = None  # of q4f16: which values pass float16's range
    layout: Layout = HUB
    pooling: bool = True  # an embedder's graph gives the vector of a text too

    def names(self, part: str, precision: str) -> Names:
        """What the files of a part are called in a precision."""
        return Names(part, self.layout.suffix(precision, len(self.precisions)), self.layout.piece_bytes)

    def shares(self, precision: str, ledger: Ledger) -> bool:
        """Whether the graphs point into the checkpoint's own files: where no stored value changes."""
        return self.shared and (precision == "fp32" or HALVES.get(precision) == ledger.type)


@dataclass(frozen=True)
class Prepared:
    """A source that can be exported, or `problems`."""

    config: PretrainedConfig
    cut: families.GraphCut
    ledger: Ledger
    parts: Mapping[str, tuple[str, ...]]  # graph -> the parameters that may be in it
    notes: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()  # beginnings of names that need not be in any


def prepare(source: Bundle, *, pooling: bool = True) -> Prepared:
    """What the headers say of exporting `source`; worked out once, unless a file changes.

    With `pooling` an embedder's graph gives the vector of a text too.

    Raises ConvertError for a model that is not exported, and for files that are broken.
    """
    paths = [artifact.path for _, artifact in source.artifacts() if artifact.path.is_file()]
    stamps = tuple((str(path), status.st_mtime_ns, status.st_size) for path in paths for status in [path.stat()])
    return _prepared((source.model, tuple(source.roles.items()), source.pending), stamps, pooling)


@functools.lru_cache(maxsize=2)
def _prepared(
    bundle: tuple[Model, tuple[tuple[Role, tuple[Artifact, ...]], ...], Pending | None], stamps: object, pooling: bool
) -> Prepared:
    from convert.formats.onnx.bind import match_tensors, stored

    model, roles, pending = bundle
    source = Bundle(model, dict(roles), pending=pending)
    home = _home(source)
    tensors = stored(source)
    kind = read_kind(home, tensors, pending.config if pending else None)
    config, cut = kind.config, kind.graphs(pooling=pooling)
    if cut.is_whole:
        tensors = stored(source, heads=True)
    ledger = match_tensors(kind.task.model(config), tensors, whole=cut.is_whole)
    made = families.parts_of(cut, config) if not ledger.problems else []
    parts = {
        part.name: tuple(dict.fromkeys(entry for name in part.parameters.values() for entry in _entries(ledger, name)))
        for part in made
    }
    unused = tuple(start for part in made for start in part.unused)
    return Prepared(config, cut, ledger, parts, kind.notes, unused)


def _entries(ledger: Ledger, parameter: str) -> list[str]:
    """What a parameter is called in a graph; nothing for one that the checkpoint lacks."""
    return [name for name in ledger.entries(parameter) if name in ledger.of]


def _home(source: Bundle) -> Path:
    """The folder of config.json."""
    path = next((file.path for file in source.of(Role.CONFIG) if file.path.name == "config.json"), None)
    if path is None:
        raise InputError(source.model.name, "has no config.json", "a Hugging Face checkpoint")
    return path.parent


def misfits(checkpoint: Checkpoint) -> list[Problem]:
    """What keeps a checkpoint that lies in a folder from being exported, by headers and config alone.

    Raises ConvertError for a model that has no graphs.
    """
    from convert.formats.onnx.bind import match_tensors
    from convert.formats.onnx.joined import Stored

    kind = read_kind(checkpoint.folder, checkpoint.tensors)
    cut = kind.graphs()
    tensors = {name: Stored(name, t.dtype, t.shape, Path(), 0, 0) for name, t in checkpoint.tensors.items()}
    ledger = match_tensors(kind.task.model(kind.config), tensors, whole=cut.is_whole)
    if not ledger.problems:
        families.parts_of(cut, kind.config)
    return list(ledger.problems)


def check(source: Bundle, settings: ExportSettings) -> list[Problem]:
    """What keeps the model from being exported, by headers and configs."""
    try:
        return list(prepare(source, pooling=settings.pooling).ledger.problems)
    except ConvertError as error:
        return [p if isinstance(p, Problem) else Problem(STAGE, p) for p in error.problems]


def export(source: Bundle, settings: ExportSettings, out: Path, progress: Progress) -> Bundle:
    """The files of `settings`, and copies of the companions, in `out`.

    Raises ConvertError before a byte is written when the model does not fit.
    """
    from convert.formats.onnx import bind, write

    prepared = prepare(source, pooling=settings.pooling)
    if prepared.ledger.problems:
        raise InputError(*_words(prepared.ledger.problems[0]))
    bind.prove_tied(prepared.ledger)
    for name, why in prepared.ledger.left_out.items():
        progress.note(f"left out: {name}, {why}")
    for note in prepared.notes:
        progress.warn(note)
    traced = _traced(prepared, progress)
    _check_used(prepared, traced, progress)
    sharing = [precision for precision in settings.precisions if settings.shares(precision, prepared.ledger)]
    home = out / settings.layout.folder
    home.mkdir(exist_ok=True)
    linked = write.share(source.of(Role.WEIGHTS), home, progress) if sharing else {}
    made: dict[Role, list[Artifact]] = {Role.WEIGHTS: [], Role.PROJECTOR: []}
    for precision in settings.precisions:
        shared = {path: file.path.name for path, file in linked.items()} if precision in sharing else {}
        graphs = {
            name: in_precision(model, prepared.ledger, precision, settings, bool(shared))
            for name, model in traced.items()
        }
        for name, model in graphs.items():
            label(model, precision, source, progress.key)
            rename(model, name, settings.layout)
        names = {name: settings.names(name, precision) for name in graphs}
        for role, artifact in _kinds(_written(graphs, names, home, shared, progress), precision):
            made[role].append(artifact)
    made[Role.WEIGHTS] += [replace(file, kind="onnx-part/shared") for file in linked.values()]
    made[Role.WEIGHTS] += _index(source, out) if linked and home == out else []
    edited = _edited(source, prepared, made, settings)
    return _bundle(source, out, made, _companions(source, prepared.cut, out, edited))


def _edited(
    source: Bundle, prepared: Prepared, made: Mapping[Role, Sequence[Artifact]], settings: ExportSettings
) -> dict[str, str]:
    """The texts of the companions that the layout's readers want otherwise than the checkpoint has them."""
    from convert.formats.onnx import web_configs

    if settings.layout is FLAT:
        return {}
    names = [artifact.path.name for files in made.values() for artifact in files]
    graphs = [name for name in names if name.endswith(".onnx")]
    pieces = {graph: sum(name.startswith(f"{graph}_data") for name in names) for graph in graphs}
    return web_configs.texts(source, prepared.config, pieces, settings.precisions)


def _traced(prepared: Prepared, progress: Progress) -> dict[str, ir.Model]:
    """TracedGraph -> graph without weights."""
    from convert.formats.onnx import trace

    parts = prepared.cut.parts(prepared.config)
    progress.start("tracing " + ", ".join(part.name for part in parts), len(parts), "graphs")
    traced = {}
    for part in parts:
        model = traced[part.name] = trace.trace(part)
        progress.note(f"{part.name}: {len(model.graph)} nodes, {trace.count(model):,} weights")
        progress.advance(1)
    return traced


def _check_used(prepared: Prepared, traced: Mapping[str, ir.Model], progress: Progress) -> None:
    """Raise InputError for a weight that is in no graph; of a whole model say only that nothing it gives needs it."""
    from convert.formats.onnx import bind

    taken = bind.used(traced.values())
    if not prepared.cut.is_whole:
        bind.check_used(prepared.ledger, lambda name: name in taken or name.startswith(prepared.unused))
        return
    if unused := bind.unused(prepared.ledger, taken.__contains__):
        progress.note(f"left out: {bind.some(unused)}, which nothing that the model gives depends on")
    bind.check_found(prepared.ledger, taken)


def in_precision(traced: ir.Model, ledger: Ledger, precision: str, settings: ExportSettings, shared: bool) -> ir.Model:
    """A copy of the traced graph with its weights, in `precision`."""
    from convert.formats.onnx import bind, trace
    from convert.formats.onnx.against import FACTORS

    model = traced.clone()
    if precision in INT4 and settings.changed:
        model.metadata_props[FACTORS] = "folded into norms"
        ledger = replace(ledger, of={name: settings.changed.get(t.name, t) for name, t in ledger.of.items()})
    bind.bind(model, ledger, widen=precision == "fp32" and not shared)
    also = frozenset[str]()
    if precision == "q4f16":
        also = _to_q4f16(model, settings)
    elif precision != "fp32":
        also = _change(model, precision, settings)
    trace.check_domains(model, also)
    return model


def _to_q4f16(model: ir.Model, settings: ExportSettings) -> frozenset[str]:
    """Change the graph to 4 bits and float16, after it was run to see what that has no room for."""
    from convert.formats.onnx.q4f16 import to_q4f16

    keep = [re.compile(pattern) for pattern in settings.keep] if settings.keep is not None else None
    beyond = settings.beyond(model.clone()) if settings.beyond is not None else None
    to_q4f16(model, settings.int4, keep, settings.encode, beyond)
    return frozenset({"com.microsoft"})


def _change(model: ir.Model, precision: str, settings: ExportSettings) -> frozenset[str]:
    """Change the graph to `precision`; gives the domains of operators that it may then have."""
    import onnx_ir as ir

    keep = [re.compile(pattern) for pattern in settings.keep] if settings.keep is not None else None
    if precision in HALVES:
        from convert.formats.onnx.half import to_half

        to_half(model, ir.DataType.FLOAT16 if precision == "fp16" else ir.DataType.BFLOAT16, keep)
    elif precision == "int8":
        from convert.formats.onnx.int8 import to_int8

        to_int8(model, keep)
    else:
        from convert.formats.onnx.int4 import to_int4

        to_int4(model, settings.int4, keep, settings.encode)
        return frozenset({"com.microsoft"})
    return frozenset()


def _written(
    graphs: Mapping[str, ir.Model],
    names: Mapping[str, Names],
    home: Path,
    shared: Mapping[Path, str],
    progress: Progress,
) -> Iterator[tuple[str, Artifact, list[Artifact]]]:
    """Write one precision; gives each part's name, graph and files of weights."""
    from convert.formats.onnx import write

    own = sum(place.size for model in graphs.values() for place in write.layout(write.tensors_of(model), shared))
    progress.start(f"writing {', '.join(each.graph for each in names.values())}", own)
    for name, model in graphs.items():
        yield name, *write.write(model, home, names[name], shared, progress)


def _kinds(written: Iterator[tuple[str, Artifact, list[Artifact]]], precision: str) -> Iterator[tuple[Role, Artifact]]:
    """The artifacts with their roles; the main graph is the first, and a projector's graph is main in its own role."""
    for number, (name, graph, data) in enumerate(written):
        role = Role.PROJECTOR if name in PROJECTORS else Role.WEIGHTS
        main = number == 0 or role is Role.PROJECTOR
        yield role, replace(graph, kind=f"{'onnx' if main else 'onnx-part'}/{precision}")
        yield from ((role, replace(file, kind=f"onnx-part/{precision}")) for file in data)


def label(model: ir.Model, precision: str, source: Bundle, key: str) -> None:
    """Say in the graph what it was made from and by what."""
    model.producer_name, model.producer_version = "convert", RELEASE
    model.metadata_props.update(origin(source, precision, key))


def _index(source: Bundle, out: Path) -> list[Artifact]:
    """The shards' index, so that the folder is a checkpoint for transformers too."""
    paths = {artifact.path.parent / SAFETENSORS.index for artifact in source.of(Role.WEIGHTS)}
    return [copy(path, out / path.name, "onnx-part/shared") for path in sorted(paths) if path.is_file()]


def _companions(
    source: Bundle, cut: families.GraphCut, out: Path, edited: Mapping[str, str]
) -> dict[Role, tuple[Artifact, ...]]:
    """Tokenizer, templates, processors and configs, as they are or by `edited`, and helper modules: a whole folder."""
    copies: dict[Role, tuple[Artifact, ...]] = {}
    for role, artifact in source.artifacts():
        inside = inner_name(artifact.path)
        if role in set(ROLES.values()) and inside.as_posix() not in edited:
            copies[role] = (*copies.get(role, ()), copy(artifact.path, out / inside, artifact.kind))
    for name, text in edited.items():
        with HashedFile(out / name) as file:
            file.write(text.encode())
        copies[ROLES[name]] = (*copies.get(ROLES[name], ()), file.artifact("json"))
    for path, helper in helper_files(cut):
        copies[Role.PREPROCESSOR] = (*copies.get(Role.PREPROCESSOR, ()), copy(path, out / helper, "python"))
    return copies


def helper_files(cut: families.GraphCut) -> Iterator[tuple[Path, str]]:
    """The modules that are shipped beside the graphs, and what they are called there."""
    for name in cut.helpers:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise InputError("onnx", f"the module {name} is not installed", "this package, whole")
        yield Path(spec.origin), f"{name.rpartition('.')[2].lstrip('_')}.py"


def inner_name(path: Path) -> Path:
    """Where a companion lies in a model's folder."""
    return Path(path.parent.name, path.name) if INNER.fullmatch(path.parent.name) else Path(path.name)


def copy(path: Path, target: Path, kind: str) -> Artifact:
    """A copy of a small file, hashed while it is made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with HashedFile(target) as file:
        file.write(path.read_bytes())
    return file.artifact(kind)


def _bundle(
    source: Bundle, out: Path, made: Mapping[Role, Sequence[Artifact]], copies: Mapping[Role, tuple[Artifact, ...]]
) -> Bundle:
    roles = {str(role): tuple(files) for role, files in (*made.items(), *copies.items())}
    return source.with_(imatrix=(), report=(), **roles)


def _words(problem: Problem) -> tuple[str, str, str, str]:
    return problem.where, problem.got, problem.wanted, problem.remedy
