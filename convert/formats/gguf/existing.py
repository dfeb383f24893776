"""GGUF files that somebody else made."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from convert.bundle import Artifact
from convert.errors import InputError
from convert.formats.base import Found
from convert.formats.existing import artifact, start_of
from convert.formats.gguf.constants import MAGIC
from convert.formats.gguf.reader import GGUFHeader, read_gguf_header
from convert.formats.gguf.shard_names import is_later_shard, shard_names
from convert.source.untrusted import inside, shown

NO_MODEL = {  # general.type of a GGUF file that is none
    "mmproj": "a projector, which goes with a language model; name that, and this as its projector",
    "adapter": "an adapter; merge it into the model first",
    "imatrix": "an importance matrix",
}
# llama.h, enum llama_ftype: what general.file_type stands for, beyond the types that are encoded here
FILE_TYPES = {
    **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S"},
    **{12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K"},
    **{19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL"},
    **{26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16"},
    **{36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4"},
}


def recognize(path: Path, projector: Path | None) -> Found | None:
    """The model whose first file `path` is, with its projector; None for what is no GGUF. Raises InputError."""
    return _gguf(path, projector) if path.is_file() and start_of(path).startswith(MAGIC) else None


def models_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """The GGUF files of a folder that are models, split ones by their first, and those that are projectors.

    A file that cannot be read counts as a model: who opens it says what is wrong.
    """
    models, projectors = [], []
    for path in sorted(folder.glob("*.gguf")):
        if not path.is_file() or is_later_shard(path.name):
            continue
        try:
            fields = _fields(read_gguf_header(path))
        except InputError:
            fields = {}
        if fields.get("general.architecture") == "clip" or fields.get("general.type") == "mmproj":
            projectors.append(path)
        elif fields.get("general.type") not in NO_MODEL:
            models.append(path)
    return models, projectors


def _gguf(path: Path, projector: Path | None) -> Found:
    header = read_gguf_header(path)
    fields = _fields(header)
    kind = str(fields.get("general.type", ""))
    if kind in NO_MODEL or fields.get("general.architecture") == "clip":
        raise InputError(str(path), f"is {NO_MODEL.get(kind, NO_MODEL['mmproj'])}", "a language model in GGUF")
    files, headers = shards_of(path, header)
    if not any(h.tensors for h in headers):
        raise InputError(str(path), "holds no tensors", "a language model in GGUF", "is it a vocabulary alone?")
    type_ = _gguf_type(headers)
    weights = tuple(artifact(f"gguf/{type_}", file) for file in files)
    beside = () if projector is None else (_projector(projector),)
    of = f"{len(files)} GGUF files" if len(files) > 1 else "a GGUF file"
    architecture = shown(fields.get("general.architecture", "unnamed"), 40)
    return Found(weights, f"{of} of the architecture {architecture}, {type_}", beside)


def _fields(header: GGUFHeader) -> dict[str, object]:
    return {field.key: field.value for field in header.fields}


def shards_of(first: Path, header: GGUFHeader) -> tuple[list[Path], list[GGUFHeader]]:
    """Every file of the model and its header; llama.cpp is given the first and finds the others by their names."""
    fields = _fields(header)
    count, number = fields.get("split.count", 0), fields.get("split.no", 0)
    if count in (0, 1):
        return [first], [header]
    names = shard_names(first.name)
    if number or len(names) != count:
        wanted = "the first of them, under the name its maker gave it" if number == 0 else "the first of them"
        remedy = f"name {names[0]}" if number and len(names) > 1 else "download all of them under their own names"
        raise InputError(str(first), f"is number {shown(number)} of {shown(count)} files (split.no)", wanted, remedy)
    paths = [inside(first.parent, name, first) for name in names]
    headers = [header, *map(read_gguf_header, paths[1:])]
    for place, (path, each) in enumerate(zip(paths, headers, strict=True)):
        said = _fields(each)
        if (said.get("split.no"), said.get("split.count")) != (place, count):
            got = f"says it is number {shown(said.get('split.no'))} of {shown(said.get('split.count'))}"
            raise InputError(str(path), got, f"number {place} of {count}", "download it again")
    tensors, claimed = sum(len(h.tensors) for h in headers), fields.get("split.tensors.count")
    if claimed != tensors:
        raise InputError(str(first), f"claims {shown(claimed)} tensors in all", f"{tensors}, as its files have")
    return paths, headers


def _gguf_type(headers: list[GGUFHeader]) -> str:
    """What the file says it is where its tensors bear that out, else the type that most of its bytes have."""
    size: Counter[str] = Counter()
    for header in headers:
        for tensor in header.tensors:
            size[tensor.type.name] += tensor.nbytes
    claimed = _fields(headers[0]).get("general.file_type")
    name = FILE_TYPES.get(claimed, "") if isinstance(claimed, int) else ""
    main = size.most_common(1)[0][0]
    family = name.partition("_")[0]  # Q4 of Q4_K_M
    return name if name and any(kind.startswith(family) for kind in size) else main


def _projector(path: Path) -> Artifact:
    if not path.is_file():
        raise InputError(str(path), "does not exist", "a projector in GGUF (mmproj)", "check the path")
    header = read_gguf_header(path)
    if _fields(header).get("general.architecture") != "clip":
        got = f"is of the architecture {shown(_fields(header).get('general.architecture'), 40)}"
        raise InputError(str(path), got, "'clip', as projectors are", "name the mmproj file that belongs to the model")
    if not header.tensors:
        raise InputError(str(path), "holds no tensors", "a projector in GGUF (mmproj)")
    return artifact(f"gguf/{_gguf_type([header])}", path)
