"""How large the files of an export will be, before anything is traced: weights nearly exact, graphs roughly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

from convert.bundle import Artifact, Bundle, Role
from convert.formats.onnx import web_configs
from convert.formats.onnx.export import HALVES, PROJECTORS, ExportSettings, Prepared, helper_files, inner_name, prepare
from convert.formats.onnx.joined import Joined, Stored
from convert.formats.onnx.layouts import FLAT
from convert.formats.onnx.write import INLINE_BYTES
from convert.source.checkpoint import SAFETENSORS
from convert.source.companions import ROLES

NODE_BYTES = 140  # an operator in a graph's file, names included
NODES = 100  # operators a layer, about
TENSOR_BYTES = 160  # what a graph says of a weight
EMBEDDING = "embed_tokens"  # the graph that looks tokens up, where there is one
TABLE, HEAD = "embed_tokens.weight", "lm_head.weight"


def forecast(source: Bundle, settings: ExportSettings) -> Bundle:
    """The bundle that `export` will return. Shared files are named where they lie now: they take no new bytes."""
    prepared = prepare(source, pooling=settings.pooling)
    made: dict[Role, list[Artifact]] = {Role.WEIGHTS: [], Role.PROJECTOR: []}
    for precision in settings.precisions:
        for role, artifact in _files(prepared, precision, settings):
            made[role].append(artifact)
    if any(settings.shares(precision, prepared.ledger) for precision in settings.precisions):
        made[Role.WEIGHTS] += [replace(file, kind="onnx-part/shared") for file in source.of(Role.WEIGHTS)]
        made[Role.WEIGHTS] += [] if settings.layout.folder else _indexes(source)
    roles = {str(role): tuple(files) for role, files in made.items()}
    return source.with_(imatrix=(), report=(), **(roles | _companions(source, prepared, settings)))


def _files(prepared: Prepared, precision: str, settings: ExportSettings) -> Iterator[tuple[Role, Artifact]]:
    for number, (part, parameters) in enumerate(prepared.parts.items()):
        names, home = settings.names(part, precision), Path(settings.layout.folder)
        tensors = dict.fromkeys(prepared.ledger.of[name] for name in _own(prepared, part, parameters))
        role = Role.PROJECTOR if part in PROJECTORS else Role.WEIGHTS
        kind = "onnx" if number == 0 or role is Role.PROJECTOR else "onnx-part"
        layers = len({name.split(".layers.")[-1].split(".")[0] for name in parameters})
        graph = NODES * NODE_BYTES * layers + TENSOR_BYTES * len(tensors)
        yield role, Artifact(f"{kind}/{precision}", home / names.graph, graph)
        if settings.shares(precision, prepared.ledger):
            continue
        sizes = [_bytes(tensor, precision, settings, part in PROJECTORS) for tensor in tensors]
        pieces = _pieces((size for size in sizes if size >= INLINE_BYTES), names.piece_bytes)
        for piece, data in enumerate(pieces):
            yield role, Artifact(f"onnx-part/{precision}", home / names.data(piece), data)


def _pieces(sizes: Iterable[int], most: int | None) -> Iterator[int]:
    """How large the files of weights are, each at most `most` bytes or one weight."""
    filled = 0
    for size in sizes:
        if most is not None and filled and filled + size > most:
            yield filled
            filled = 0
        filled += size
    if filled:
        yield filled


def _own(prepared: Prepared, part: str, parameters: Sequence[str]) -> list[str]:
    """The parameters of a part, without the table of embeddings where that is a graph of its own."""
    apart = EMBEDDING in prepared.parts and part != EMBEDDING
    return [name for name in parameters if not (apart and name.endswith(TABLE))]


def _bytes(tensor: Stored | Joined, precision: str, settings: ExportSettings, fine: bool) -> int:
    """Bytes of a weight in a precision's own file; `fine` ones have eight bits in int4, as tables and heads have."""
    from convert.formats.onnx.int4 import FINE_BITS

    count, kept = prod(tensor.shape), tensor.stop - tensor.start
    if precision == "fp32":
        return count * 4
    if len(tensor.shape) < 2:
        return kept
    if precision in HALVES:
        return count * 2
    if _kept(tensor.name, precision, settings):
        return kept
    if precision == "int8":
        return count + tensor.shape[0] * 4
    asked, columns = settings.int4, count // tensor.shape[0]
    bits = FINE_BITS if fine else asked.embed if tensor.name.endswith(TABLE) else 4
    bits = asked.lm_head if tensor.name.endswith(HEAD) else bits
    bits = asked.v_proj if not fine and "v_proj" in tensor.name else bits
    shapes = asked.layout(bits, columns).shapes(tensor.shape[0], columns)
    sizes = 1, 2 if precision == "q4f16" else 4, 1
    return sum(prod(shape) * size for shape, size in zip(shapes, sizes, strict=False))


def _kept(name: str, precision: str, settings: ExportSettings) -> bool:
    import re

    from convert.formats.onnx import int4, int8

    default = {"int8": int8.KEEP}.get(precision, int4.KEEP)
    patterns = default if settings.keep is None else [re.compile(pattern) for pattern in settings.keep]
    return any(pattern.search(name) for pattern in patterns)


def _indexes(source: Bundle) -> list[Artifact]:
    paths = sorted({artifact.path.parent / SAFETENSORS.index for artifact in source.of(Role.WEIGHTS)})
    return [Artifact("onnx-part/shared", Path(p.name), p.stat().st_size) for p in paths if p.is_file()]


def _companions(source: Bundle, prepared: Prepared, settings: ExportSettings) -> dict[str, tuple[Artifact, ...]]:
    copies: dict[str, tuple[Artifact, ...]] = {}
    for role, artifact in source.artifacts():
        if role in set(ROLES.values()):
            copy = Artifact(artifact.kind, inner_name(artifact.path), artifact.size)
            copies[str(role)] = (*copies.get(str(role), ()), copy)
    if settings.layout is not FLAT and web_configs.lacks_image_settings(source):
        made = Artifact("json", Path(web_configs.IMAGES), 1000)
        copies[str(Role.PREPROCESSOR)] = (*copies[str(Role.PREPROCESSOR)], made)
    for path, name in helper_files(prepared.cut):
        name_of = str(Role.PREPROCESSOR)
        copies[name_of] = (*copies.get(name_of, ()), Artifact("python", Path(name), path.stat().st_size))
    return copies
