"""A checkpoint -> a folder of OpenVINO models: traced, bound, read by OpenVINO, made stateful, stored in fewer bits."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from convert.bundle import Artifact, Bundle, Role
from convert.errors import ConvertError, InputError, Problem, StageError
from convert.files import CHUNK_BYTES, HashedFile
from convert.formats.onnx.origin import origin
from convert.formats.openvino import config, parts
from convert.formats.openvino.scheme import BLOCKS, Asked, Scheme
from convert.progress import Progress
from convert.source.companions import ROLES, read_companions

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    import openvino as ov

    from convert.formats.onnx.export import Prepared
    from convert.formats.onnx.joined import Joined, Stored
    from convert.formats.onnx.known import Known
    from convert.formats.onnx.linears import Linear
    from convert.formats.openvino.weights import Store

TABLES = ("embed_tokens.weight", "lm_head.weight")
VALUES = ".v_proj."  # small where heads share their keys, and dear: 8 bits, as in the 4-bit ONNX graphs
CARRIED = frozenset(ROLES.values()) - {Role.CARD}
NODE_BYTES, NODES = 700, 130  # of an operator in XML; operators a layer, about


def check(source: Bundle) -> list[Problem]:
    """What keeps the model from being exported, by headers and configs."""
    from convert.formats.onnx import export

    try:
        prepared = export.prepare(source)
        parts.check(_cut(source, prepared))
        return list(prepared.ledger.problems)
    except ConvertError as error:
        return [p if isinstance(p, Problem) else Problem("openvino", p) for p in error.problems]


def _cut(source: Bundle, prepared: Prepared) -> str:
    """The name of the family's cut."""
    from convert.architectures import TEXT_GRAPH
    from convert.formats.onnx import families

    for name in (TEXT_GRAPH, *families.names()):
        if families.load(name) is prepared.cut:
            return name
    raise InputError(source.model.name, "writes no text: no pipeline of OpenVINO GenAI is known for it", "a text model")


def forecast(source: Bundle, asked: Asked) -> Bundle:
    """The bundle that `export` will return: weights nearly exact, models and tokenizer roughly."""
    from convert.formats.onnx.export import prepare

    prepared = prepare(source)
    tensors = dict.fromkeys(prepared.ledger.of.values())
    size = sum(_bytes(tensor, asked.scheme) for tensor in tensors)
    layers = len({tensor.name.split(".layers.")[-1].split(".")[0] for tensor in tensors})
    main, *others = parts.names(_cut(source, prepared))
    made = _weights(Path(), asked.scheme.precision, [main, *others])
    sizes = {f"{main}.xml": layers * NODES * NODE_BYTES, f"{main}.bin": size}
    weights = tuple(Artifact(a.kind, a.path, sizes.get(a.path.name, NODE_BYTES * NODES)) for a in made)
    return source.with_(weights=weights, projector=(), imatrix=(), statistics=(), report=())


def _bytes(tensor: Stored | Joined, scheme: Scheme) -> int:
    stored = tensor.stop - tensor.start
    if scheme.precision == "fp32" or len(tensor.shape) < 2:
        return stored
    matrix = _Shape(prod(tensor.shape[1:]), tensor.shape[0])
    return scheme.size(matrix, _is_fine(tensor.name, scheme))


@dataclass(frozen=True)
class _Shape:
    """A matrix by its shape alone."""

    inputs: int
    outputs: int
    name: str = ""

    def chunks(self) -> Iterator[tuple[slice, np.ndarray]]:
        return iter(())


def export(source: Bundle, asked: Asked, out: Path, progress: Progress) -> Bundle:
    """The folder in `out`. Raises ConvertError, before a byte is written where the model does not fit."""
    from convert.formats.onnx import bind, write
    from convert.formats.onnx.export import prepare
    from convert.formats.openvino.weights import Store

    prepared = prepare(source)
    if prepared.ledger.problems:
        first = prepared.ledger.problems[0]
        raise InputError(first.where, first.got, first.wanted, first.remedy)
    bind.prove_tied(prepared.ledger)
    wanted = parts.parts(prepared.config, prepared.cut, _cut(source, prepared))
    traced = _traced(wanted, progress)
    bind.check_used(prepared.ledger, bind.used(traced.values()).__contains__)
    with (
        tempfile.TemporaryDirectory(prefix=".weights-", dir=out) as folder,
        _known(source, asked, out, progress) as known,
    ):
        scratch = Path(folder)
        shared = write.share(source.of(Role.WEIGHTS), scratch, progress)
        scheme = replace(asked.scheme, encode=known.encode if known else None)
        for part in wanted:
            store = Store(scratch / f"{part.file}.data")
            making = _Making(source, prepared, scheme, shared, scratch, progress)
            making.save(part, traced.pop(part.file), store, out / f"{part.file}.xml")
    if known is not None and known.words:
        progress.note(f"matrices: {known.words}")
    return _bundle(source, asked, out, [part.file for part in wanted], progress)


@contextmanager
def _known(source: Bundle, asked: Asked, out: Path, progress: Progress) -> Iterator[Known | None]:
    """Who makes the 4-bit numbers: the same as of a 4-bit ONNX graph, GPTQ where Gram matrices are at hand."""
    from convert.calibration.options import Calibration
    from convert.formats.onnx import solving
    from convert.formats.onnx.blocks import Int4
    from convert.formats.onnx.known import known
    from convert.model.statistics import has_grams

    if asked.scheme.precision != "int4" or asked.scheme.group_size not in BLOCKS:
        yield None
        return
    int4 = Int4(asked.scheme.group_size, asked.scheme.symmetric)
    solve = solving.Asked(int4, Calibration.model_validate({}), False, "normal") if has_grams(source) else None
    with known(int4, solve, source, out, progress) as found:
        yield found


def _traced(wanted: Sequence[parts.Part], progress: Progress) -> dict[str, ir.Model]:
    from convert.formats.onnx import trace
    from convert.formats.onnx.hollow import attention_nodes

    progress.start("tracing " + ", ".join(part.file for part in wanted), len(wanted), "models")
    traced = {}
    for part in wanted:
        with attention_nodes():
            traced[part.file] = trace.trace(part.traced)
        progress.advance(1)
    return traced


@dataclass(frozen=True)
class _Making:
    """What every model of a folder is made with."""

    source: Bundle
    prepared: Prepared
    scheme: Scheme
    shared: Mapping[Path, Artifact]
    scratch: Path
    progress: Progress

    def save(self, part: parts.Part, traced: ir.Model, store: Store, path: Path) -> None:
        """Write the finished model of a part."""
        import openvino as ov

        model = self._model(part, traced, store)
        ov.save_model(model, path, compress_to_fp16=False)

    def _model(self, part: parts.Part, traced: ir.Model, store: Store) -> ov.Model:
        """The finished model, its weights mapped from the checkpoint's files and that of `store`."""
        from convert.formats.onnx import bind
        from convert.formats.openvino import graphs
        from convert.formats.openvino.weights import compress

        bind.bind(traced, self.prepared.ledger)
        matrices = _matrices(traced, part.is_vision, self.scheme)
        model = graphs.read(traced, self.shared, self.scratch)
        _rename(model, part)
        if part.decodes:
            graphs.make_stateful(model)
        if self.scheme.precision != "fp32":
            found = graphs.constants(model, matrices.__contains__)
            if lost := set(matrices) - set(found):
                raise StageError("openvino", f"OpenVINO's model of {part.file} lacks {', '.join(sorted(lost)[:3])}")
            self.progress.start(f"storing {part.file} as {self.scheme.precision}", len(found), "matrices")
            counts = compress(found, matrices, self.scheme, store)
            self.progress.note(f"{part.file}: " + ", ".join(f"{n} matrices in {word}" for word, n in counts.items()))
        model.validate_nodes_and_infer_types()
        for name, value in origin(self.source, self.scheme.precision, self.progress.key).items():
            model.set_rt_info(value, ["convert", name.removeprefix("convert.")])
        return model


def _matrices(model: ir.Model, fine: bool, scheme: Scheme) -> dict[str, tuple[Linear, bool]]:
    """The matrices of a bound graph by name, and whether each keeps 8 bits at least."""
    from convert.formats.onnx.linears import head, linears, lookups

    last = head(model)
    found: dict[str, tuple[Linear, bool]] = {}
    for linear in lookups(model):
        found[linear.name] = linear, True
    for linear in linears(model):
        is_fine = fine or linear.name in found or (linear.node is last and not scheme.whole_4bit)
        is_fine |= VALUES in linear.name and not scheme.whole_4bit
        found[linear.name] = linear, is_fine
    return found


def _is_fine(name: str, scheme: Scheme) -> bool:
    if name.endswith(TABLES[:1]) or "visual." in name:
        return True
    return not scheme.whole_4bit and (name.endswith(TABLES) or VALUES in name)


def _rename(model: ov.Model, part: parts.Part) -> None:
    """Inputs and outputs are called as the traced graph calls them, and nothing else.

    What flows between operators loses its names: of an operator that does nothing, an input would get the name as well.
    """
    for node in model.get_ops():
        for output in node.outputs():
            output.get_tensor().set_names(set())
    for port, name in zip(model.inputs, part.traced.inputs, strict=True):
        port.get_tensor().set_names({name})
    for port, name in zip(model.outputs, part.traced.outputs, strict=True):
        port.get_tensor().set_names({name})


# ---- the bundle


def _weights(folder: Path, precision: str, names: Sequence[str]) -> list[Artifact]:
    """Every file of the models; the first one is what runtimes are given."""
    files = [folder / f"{name}{ending}" for name in names for ending in (".xml", ".bin")]
    return [Artifact(f"openvino{'-part' if i else ''}/{precision}", path, 0) for i, path in enumerate(files)]


def _bundle(source: Bundle, asked: Asked, out: Path, names: Sequence[str], progress: Progress) -> Bundle:
    from convert.formats.onnx.export import copy, inner_name

    precision = asked.scheme.precision
    weights = [_hashed(artifact) for artifact in _weights(out, precision, names)]
    carried: dict[Role, tuple[Artifact, ...]] = {}
    for role, artifact in source.artifacts():
        if role in CARRIED:
            copied = copy(artifact.path, out / inner_name(artifact.path), artifact.kind)
            carried[role] = (*carried.get(role, ()), copied)
    with HashedFile(out / config.NAME) as file:
        file.write(config.text(asked.scheme).encode())
    weights.append(file.artifact(f"openvino-part/{precision}"))
    if asked.tokenizer:
        from convert.formats.openvino import tokenizer

        progress.start("converting the tokenizer", 1, "tokenizer")
        files = tokenizer.write(out, read_companions(source), out)
        weights += [_hashed(Artifact(f"openvino-part/{precision}", path, 0)) for path in files]
    roles = {str(role): files for role, files in carried.items()} | {"weights": tuple(weights)}
    return source.with_(projector=(), imatrix=(), statistics=(), report=(), **roles)


def _hashed(artifact: Artifact) -> Artifact:
    """The artifact of a file that OpenVINO wrote, with its size and hash; the file is on the disk then."""
    import hashlib
    import os

    hasher = hashlib.sha256()
    with open(artifact.path, "rb+", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            hasher.update(chunk)
        os.fsync(file.fileno())
    return Artifact(artifact.kind, artifact.path, artifact.path.stat().st_size, hasher.hexdigest())
