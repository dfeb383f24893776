"""A Hugging Face checkpoint on disk: its config and its tensors, mapped, never loaded whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np

from convert.bundle import Bundle, Role
from convert.errors import InputError
from convert.json_types import JsonDict, JsonObject
from convert.source import pickle_scan, quantized, unpack
from convert.source.model_types import class_of, gives_scores
from convert.source.names import kept_name, plain_name, refuse_unmerged
from convert.source.remote import RemoteBytes, remote_of
from convert.source.safetensors import Entry, Header, MappedFile, read_header
from convert.source.untrusted import check_bare, inside, listed, read_object, shown

CONFIG_NAME = "config.json"
CLASSES = "architectures"
MAX_CONFIG_BYTES = 4 << 20

STORAGE: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # numpy has no bfloat16: its 16 bits
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
"""safetensors' dtype -> how `LazyTensor.load` gives its values."""


@dataclass(frozen=True)
class Layout:
    """How a kind of weight file is named on the hub."""

    kind: str
    single: str
    shard: str  # with the shard's number and their count
    suffix: str

    @property
    def index(self) -> str:
        return f"{self.single}.index.json"

    def count(self, name: str) -> int:
        """The shards of the set that the file called `name` belongs to; 0 when it is not named as a shard."""
        pattern = re.escape(self.shard).replace("NUMBER", "[0-9]{5}").replace("COUNT", "([0-9]{5})")
        match = re.fullmatch(pattern, name)
        return int(match[1]) if match else 0

    def names(self, count: int) -> list[str]:
        """The file names of a checkpoint in `count` shards."""
        shards = [self.shard.replace("NUMBER", f"{i:05}").replace("COUNT", f"{count:05}") for i in range(1, count + 1)]
        return shards if count > 1 else [self.single]


SAFETENSORS = Layout("safetensors", "model.safetensors", "model-NUMBER-of-COUNT.safetensors", ".safetensors")
PICKLES = Layout("pickled", "pytorch_model.bin", "pytorch_model-NUMBER-of-COUNT.bin", ".bin")


def _nothing() -> None: ...


@dataclass(frozen=True)
class LazyTensor:
    """A tensor whose shape is known and whose bytes are not read yet."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # safetensors' name: F32, F16, BF16, ...
    load: Callable[[], np.ndarray] = field(repr=False)  # STORAGE[dtype] values, a read-only view of the mapped file
    file: str = ""  # where it comes from, for messages
    release: Callable[[], None] = field(default=_nothing, repr=False)  # gives touched pages back; views stay valid
    rows: Callable[[int, int], np.ndarray] | None = field(default=None, repr=False)
    """Of a tensor that is computed: some of its rows, along the first axis. `load` computes all of them."""

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * STORAGE[self.dtype].itemsize


Tensors: TypeAlias = Mapping[str, LazyTensor]


def shapes_of(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    """Name -> shape."""
    return {name: tensor.shape for name, tensor in tensors.items()}


@dataclass(frozen=True)
class Checkpoint:
    """A model as it was published; nothing in it is loaded until a tensor's `load` is called."""

    folder: Path
    config: JsonObject  # config.json, without its word on a quantization that is undone while tensors are read
    tensors: Mapping[str, LazyTensor]  # in the order of the files and, in each, of its bytes


def open_checkpoint(folder: Path) -> Checkpoint:
    """The safetensors checkpoint in `folder`; only headers are read.

    The weights are the files of `model.safetensors.index.json`, or `model.safetensors`, or a complete set of
    `model-00001-of-0000N.safetensors`. Raises InputError for anything broken, hostile or ambiguous.
    """
    config = read_config(folder)
    return Checkpoint(folder, config, open_tensors(folder, gives_scores(config)))


def open_tensors(folder: Path, scores: bool = False) -> dict[str, LazyTensor]:
    """The tensors of the safetensors checkpoint in `folder`, its config unread; of one that gives `scores`, its
    classifier too. Raises InputError as above."""
    if layout(folder) is PICKLES:
        raise InputError(
            str(folder), "has pickled weights only", "safetensors", "name it as a recipe's model: it is converted there"
        )
    files, index = weight_files(folder)
    words = packing(folder)
    tensors = _tensors(files, scores, words)
    named = {kept: file for name, file in index.items() if (kept := kept_name(name, scores))}
    check_index(folder / SAFETENSORS.index, named, {name: tensor.file for name, tensor in tensors.items()})
    return _whole(tensors, words, folder)


def open_files(files: Sequence[Path]) -> dict[str, LazyTensor]:
    """The tensors of safetensors files, each name once. Raises InputError as above."""
    return _tensors(files)


def stored_tensors(path: Path) -> dict[str, LazyTensor]:
    """Every tensor of a safetensors file, as it is called there. Raises InputError."""
    header = read_header(path)
    mapped = MappedFile(header)
    return {entry.name: _lazy(path, mapped, entry, STORAGE) for entry in header.entries}


def open_bundle(bundle: Bundle) -> Checkpoint:
    """The checkpoint that a source bundle describes; its weights need not lie beside its config, nor be written yet.

    Raises InputError as open_checkpoint does, and when the weights are not there (yet).
    """
    config = next((file.path for file in bundle.of(Role.CONFIG) if file.path.name == CONFIG_NAME), None)
    if config is None:
        raise InputError(bundle.model.name, "has no config.json", "a Hugging Face checkpoint")
    if bundle.pending is not None:
        return Checkpoint(config.parent, bundle.pending.config, cast(Tensors, bundle.pending.tensors))
    weights = [file.path for file in bundle.of(Role.WEIGHTS)]
    if not weights:
        raise InputError(bundle.model.name, "has no weights", "safetensors files")
    home, words = config.parent, packing(config.parent)
    values = read_config(home)
    return Checkpoint(home, values, _whole(_tensors(weights, gives_scores(values), words), words, home))


def packing(folder: Path) -> JsonObject | None:
    """What config.json says of the quantization of weights that are made whole while they are read; else None.

    None too where it cannot be read: who opens it says so.
    """
    try:
        words = stored_config(folder).get(quantized.KEY)
    except InputError:
        return None
    return words if isinstance(words, dict) and unpack.reads(words) else None


def is_classifier(folder: Path) -> bool:
    """Whether the model of a folder gives scores of texts, as far as its config can be read."""
    try:
        return gives_scores(read_config(folder))
    except InputError:  # said by who needs the config
        return False


def read_config(folder: Path) -> JsonDict:
    """config.json of the checkpoint in `folder`, as it describes the tensors that are read from there.

    Raises InputError when there is no such folder, file or object.
    """
    return as_read(stored_config(folder))


def as_read(config: JsonDict) -> JsonDict:
    """The config without its word on a quantization that is undone while tensors are read."""
    return quantized.without(config) if unpack.reads(config.get(quantized.KEY)) else config


def stored_config(folder: Path) -> JsonDict:
    """config.json of the checkpoint in `folder`, as it describes the files. Raises InputError as above."""
    if not folder.is_dir():
        got = "is a file" if folder.exists() else "does not exist"
        raise InputError(str(folder), got, "the folder of a Hugging Face checkpoint", "check the path")
    if not (folder / CONFIG_NAME).is_symlink() and not (folder / CONFIG_NAME).exists():
        raise InputError(str(folder), "has no config.json", "the folder of a Hugging Face checkpoint")
    return mended(folder, read_object(inside(folder, CONFIG_NAME), MAX_CONFIG_BYTES))


def mended(folder: Path, config: JsonDict) -> JsonDict:
    """The config of the checkpoint in `folder` with its class, where its model_type names one, and without what its
    weights disprove: a quantization that is not there."""
    if not config.get(CLASSES) and (name := class_of(config)):
        config = config | {CLASSES: [name]}
    if quantized.KEY not in config or not quantized.is_stale(config, stored_types(folder)):
        return config
    return quantized.without(config)


def stored_types(folder: Path) -> dict[str, str]:
    """Name -> dtype of every tensor of the weights in `folder`, as their headers say it; of pickles the types alone.

    Nothing of files that cannot be read: who opens them says so.
    """
    try:
        if not folder.is_dir():
            return {}
        kind = layout(folder)
        files = weight_files(folder, kind)[0]
        if kind is PICKLES:
            return {name: dtype for path in files for name, dtype in pickle_scan.stored_types(path).items()}
        return {e.name: e.dtype for path in files for e in read_header(path).entries}
    except InputError:
        return {}


def layout(folder: Path) -> Layout:
    """PICKLES when `folder` has them and no safetensors weights, else SAFETENSORS."""
    present = _present(folder)
    found = [
        kind
        for kind in (SAFETENSORS, PICKLES)
        if {kind.single, kind.index} & set(present) or any(map(kind.count, present))
    ]
    return found[0] if found else SAFETENSORS


def has_weights(folder: Path) -> bool:
    """Whether `folder` has files that are named as a checkpoint's weights."""
    present = _present(folder)
    return any(
        {kind.single, kind.index} & set(present) or any(map(kind.count, present)) for kind in (SAFETENSORS, PICKLES)
    )


def weight_files(folder: Path, kind: Layout = SAFETENSORS) -> tuple[list[Path], dict[str, str]]:
    """The files that hold the model, in order, and the index (tensor name -> file name; empty if there is none).

    Other weights, such as the `consolidated.safetensors` some publishers put beside, are not the model's.
    Raises InputError for a shard that is missing, a name that leads out of the folder, or two sets of weights.
    """
    present = _present(folder)
    index = _read_index(folder, kind) if kind.index in present else {}
    shards = [name for name in present if kind.count(name)]
    names = sorted(set(index.values())) if index else shards
    if kind.single in present and names not in ([], [kind.single]):
        raise InputError(
            str(folder),
            f"has {kind.single} and also the shards {listed(names)}",
            "one set of weights",
            "move away the one that is not the model's",
        )
    if kind.single in present:
        names = [kind.single]
    elif not index:
        _check_complete(folder, shards, present, kind)
    missing = [name for name in names if name not in present]
    if missing:
        where = str(folder / kind.index)
        raise InputError(
            where, f"names {listed(missing)}, not in the folder", "every shard", "download the model again"
        )
    return [inside(folder, name, folder / kind.index) for name in names], index


def check_index(where: Path, index: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Raise InputError unless the index (if there is one) names the tensors that were found, in the same files."""
    if not index:
        return
    lacking = [name for name, file in index.items() if found.get(name) != file]
    if lacking:
        got = f"puts {shown(lacking[0])} in {shown(index[lacking[0]])}, which does not hold it ({len(lacking)} such)"
        raise InputError(str(where), got, "an index that agrees with its shards", "download the model again")
    unlisted = [name for name in found if name not in index]
    if unlisted:
        got = f"does not list {listed(unlisted)}, which its shards hold"
        raise InputError(str(where), got, "an index that agrees with its shards", "download the model again")


def _present(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise InputError(str(folder), f"cannot be listed ({error.strerror})", "a checkpoint's folder") from None


def _read_index(folder: Path, kind: Layout) -> dict[str, str]:
    where = inside(folder, kind.index)
    weight_map = read_object(where, unique=True).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(str(where), "has no weight_map", "an object of tensor name -> file name")
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or not file.endswith(kind.suffix):
            raise InputError(str(where), f"puts {shown(tensor)} in {shown(file)}", f"the name of a {kind.suffix} file")
    for file in sorted(set(weight_map.values())):
        check_bare(file, where)
    return weight_map


def _check_complete(folder: Path, shards: Sequence[str], present: Sequence[str], kind: Layout) -> None:
    """Raise InputError unless `shards` are all of one set."""
    counts = set(map(kind.count, shards))
    if counts:
        missing = [name for name in kind.names(max(counts)) if name not in shards]
        if missing or len(counts) > 1:
            got = f"lacks {listed(missing)}" if missing else f"has shards of {len(counts)} sets"
            wanted = f"a complete set of {max(counts)} shards"
            raise InputError(str(folder), got, wanted, "download the model again")
        return
    others = [name for name in present if name.endswith(kind.suffix)]
    wanted = f"{kind.single}, or {kind.index} and its shards"
    if others:
        got = f"has none of the model's weights, only {listed(others)}"
        raise InputError(str(folder), got, wanted, "is it an adapter, or another layout?")
    raise InputError(str(folder), "has no weights", wanted, "download the model again")


def _whole(tensors: dict[str, LazyTensor], words: JsonObject | None, folder: Path) -> dict[str, LazyTensor]:
    """The tensors of the model, of those that its files hold."""
    return tensors if words is None else unpack.unpacked(tensors, words, str(folder / CONFIG_NAME))


def _tensors(files: Sequence[Path], scores: bool = False, words: JsonObject | None = None) -> dict[str, LazyTensor]:
    """What is stored in the files; with `words` on their quantization in types that only such weights have."""
    storage = STORAGE if words is None else {**STORAGE, **unpack.STORED}
    tensors: dict[str, LazyTensor] = {}
    for path in files:
        header = read_header(path)
        mapped = _bytes_of(path, header)
        refuse_unmerged(str(path), (entry.name for entry in header.entries))
        for entry in model_entries(header, scores):
            if entry.name in tensors:
                raise InputError(
                    str(path),
                    f"holds {shown(entry.name)}, which {tensors[entry.name].file} holds too",
                    "every tensor once",
                    "do not trust this model",
                )
            tensors[entry.name] = _lazy(path, mapped, entry, storage)
    return tensors


def model_entries(header: Header, scores: bool = False, *, heads: bool = False) -> Iterator[Entry]:
    """The tensors of a file that are part of the model, by their plain names (see convert.source.names).

    With `heads`, whatever is stored: classifiers and the like are part of models that write no text.
    """
    for entry in header.entries:
        if kept := plain_name(entry.name) if heads else kept_name(entry.name, scores):
            yield entry if kept == entry.name else replace(entry, name=kept)


def _lazy(path: Path, mapped: MappedFile | RemoteBytes, entry: Entry, known: Mapping[str, np.dtype]) -> LazyTensor:
    storage = known.get(entry.dtype)
    if storage is None:
        raise InputError(
            f"{path}: tensor {shown(entry.name)}",
            f"is {entry.dtype}, not supported as source",
            "weights in F32, F16 or BF16",
            "use the model's 16-bit checkpoint",
        )
    load, release = partial(mapped.view, entry, storage), partial(mapped.release, entry)
    rows = partial(mapped.rows, entry, storage) if isinstance(mapped, RemoteBytes) and entry.shape else None
    return LazyTensor(entry.name, entry.shape, entry.dtype, load, path.name, release, rows)


def _bytes_of(path: Path, header: Header) -> MappedFile | RemoteBytes:
    """The file's bytes: mapped, or on a server where only its header is here."""
    elsewhere = remote_of(path)
    return MappedFile(header) if elsewhere is None else RemoteBytes(elsewhere)
