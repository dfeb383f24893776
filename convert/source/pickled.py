"""Legacy `pytorch_model.bin`: looked through without running a byte of it, then written as safetensors.

A pickle is a program. It is read here by `torch.load(weights_only=True)` and by nothing else, and before that every
name it would import is held against a short list; the first one that is not on it is named in the error.

Source of the layouts: torch/serialization.py (zip archive since 1.6; before that five pickles in a row, then bytes).
"""

from __future__ import annotations

import io
import pickletools
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convert.bundle import Artifact
from convert.errors import InputError
from convert.progress import Progress
from convert.source.checkpoint import PICKLES, SAFETENSORS, check_index
from convert.source.names import kept_name, refuse_unmerged
from convert.source.safetensors import write
from convert.source.untrusted import listed, refuse_pointer, shown

if TYPE_CHECKING:
    import torch

MAX_PROGRAM_BYTES = 64 << 20  # of one pickle; that of a 3000-tensor model takes 300 kB
LEGACY_PICKLES = 5  # magic number, protocol, system info, the state dict, the storages' keys
ZIP_START = b"PK\x03\x04"  # what torch.load goes by
TORCH_SCRIPT = "constants.pkl"

DTYPES = {
    **{"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"},
    **{"int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8"},
    **{"uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL"},
}
"""torch's dtypes -> safetensors'."""

STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
ALLOWED = frozenset(
    {
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch.Size",
        *(f"torch.{name}Storage" for name in STORAGES),
        *(f"torch.{name}" for name in DTYPES),
    }
)
"""Everything a state dict of plain tensors imports."""


def scan(path: Path) -> None:
    """Raise InputError unless the pickle at `path` would import only what plain tensors need.

    Nothing of it is run, nothing is unpacked; sizes are checked before anything is read.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(64)
            refuse_pointer(path, start)
            file.seek(0)
            programs = [_zipped_program(path)] if start.startswith(ZIP_START) else _legacy_programs(path, file)
            refused = sorted({name for program in programs for name in _imports(program)} - ALLOWED)
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})") from None
    except (ValueError, LookupError, ArithmeticError, struct.error, MemoryError) as error:
        raise InputError(str(path), f"is not a pickle that can be read ({error})", "a PyTorch state dict") from None
    if refused:
        raise InputError(
            str(path),
            f"its pickle wants to import {listed(refused)}",
            "tensors and nothing else",
            "do not load this file anywhere; ask its publisher for safetensors",
        )


def _zipped_program(path: Path) -> bytes:
    """data.pkl of the zip archive at `path`; every entry must be stored as it is, so that none can be a bomb."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if any(name.endswith("/" + TORCH_SCRIPT) for name in names):
                raise InputError(str(path), "is a TorchScript program", "a state dict", "ask for safetensors")
            packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
            if packed or len(set(names)) < len(names) or sum(e.file_size for e in entries) > path.stat().st_size:
                got = f"has compressed entries ({listed(packed)})" if packed else "has entries that overlap"
                raise InputError(str(path), got, "an archive as torch.save writes it", "do not trust this file")
            programs = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
            if len(programs) != 1 or programs[0].file_size > MAX_PROGRAM_BYTES:
                raise InputError(str(path), "has not one data.pkl of a plausible size", "an archive of torch.save")
            return archive.read(programs[0])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise InputError(
            str(path), f"is a broken zip archive ({error})", "a PyTorch state dict", "download it again"
        ) from None


def _legacy_programs(path: Path, file: io.BufferedReader) -> Iterator[bytes]:
    """The pickles at the start of a file older than PyTorch 1.6; the tensors' bytes come after them."""
    raw = file.read(MAX_PROGRAM_BYTES)
    if raw[257:262] == b"ustar":
        raise InputError(str(path), "is in the tar format of PyTorch 0.1", "a newer state dict", "ask for safetensors")
    reader = io.BytesIO(raw)
    for _ in range(LEGACY_PICKLES):
        start = reader.tell()
        for _ in pickletools.genops(reader):
            pass
        yield raw[start : reader.tell()]


def _imports(program: bytes) -> Iterator[str]:
    """`module.name` of everything the pickle would import; "?" stands for a name that is only made when it runs."""
    recent: list[str] = []  # the texts on top of the stack, as far as they are literal
    memo: dict[int, str] = {}
    for opcode, argument, _ in pickletools.genops(program):
        match opcode.name:
            case "GLOBAL" | "INST":
                yield ".".join(str(argument).split(" ", 1))
                recent.clear()
            case "STACK_GLOBAL":
                yield ".".join(["?", "?", *recent][-2:])
                recent.clear()
            case "EXT1" | "EXT2" | "EXT4":
                yield f"the copyreg extension {argument}"
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[int(str(argument))] = recent[-1] if recent else "?"
            case "MEMOIZE":
                memo[len(memo)] = recent[-1] if recent else "?"
            case "GET" | "BINGET" | "LONG_BINGET":
                recent.append(memo.get(int(str(argument)), "?"))
            case name if name.endswith("UNICODE") or name.endswith("UNICODE8"):
                recent.append(str(argument))
            case "FRAME" | "PROTO":
                pass
            case _:
                recent.clear()


def forecast(files: Sequence[Path]) -> tuple[Artifact, ...]:
    """The safetensors files that `convert` will write for these pickles, by bare name; their size is about the same."""
    names = SAFETENSORS.names(len(files))
    return tuple(
        Artifact("safetensors", Path(name), path.stat().st_size) for name, path in zip(names, files, strict=True)
    )


def convert(
    files: Sequence[Path], index: Mapping[str, str], out: Path, *, tied: bool, progress: Progress
) -> tuple[Artifact, ...]:
    """One safetensors file in `out` for each pickle, hashed while written; one shard is mapped at a time.

    With `tied`, of several names of the very same values (embedding and output) the first stays, as safetensors has
    no way to share bytes; else each gets its own copy. Raises InputError for whatever is not a dict of plain tensors.
    """
    progress.start("reading pickled weights", sum(path.stat().st_size for path in files))
    found: dict[str, str] = {}
    artifacts = []
    for path, name in zip(files, SAFETENSORS.names(len(files)), strict=True):
        scan(path)
        tensors = _model_tensors(path)
        twice = [tensor for tensor in tensors if tensor in found]
        if twice:
            raise InputError(str(path), f"holds {listed(twice)}, which {found[twice[0]]} holds too", "each tensor once")
        found |= dict.fromkeys(tensors, path.name)
        kept = _without_aliases(tensors) if tied else tensors
        specs = {tensor: (DTYPES[_dtype(value)], tuple(value.shape)) for tensor, value in kept.items()}
        artifacts.append(write(out / name, specs, _bytes(kept.values()), {"format": "pt"}))
        progress.advance(path.stat().st_size)
    if files:
        named = {plain: file for tensor, file in index.items() if (plain := kept_name(tensor))}
        check_index(files[0].parent / PICKLES.index, named, found)
    return tuple(artifacts)


def _model_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors in the file that are part of the model, by their plain names (see convert.source.names)."""
    state = _load(path)
    refuse_unmerged(str(path), state)
    tensors: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        kept = kept_name(name)
        if kept in tensors:
            raise InputError(str(path), f"holds {shown(kept)} under two names", "each tensor once")
        if kept:
            tensors[kept] = value
    return tensors


def _load(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in the file, mapped where its format allows it."""
    import torch

    with open(path, "rb") as file:
        zipped = file.read(4) == ZIP_START
    try:
        with warnings.catch_warnings(action="ignore"):  # what torch thinks of a stranger's file is in the error
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a stranger's program for torch's interpreter: it may fail in any way
        reason = shown(str(error).splitlines()[0] if str(error) else type(error).__name__, 160)
        raise InputError(str(path), f"torch cannot read it safely ({reason})", "a state dict of tensors") from None
    if not isinstance(state, dict):
        raise InputError(str(path), f"holds a {type(state).__name__}", "a state dict: name -> tensor")
    size = path.stat().st_size
    for name, value in state.items():
        _check_tensor(path, name, value, size)
    return dict(state)


def _check_tensor(path: Path, name: object, value: object, file_size: int) -> None:
    import torch

    where = f"{path}: {shown(name)}"
    if not isinstance(name, str) or not name.isprintable():
        raise InputError(where, "is not a tensor's name", "a plain name")
    if not isinstance(value, torch.Tensor):
        hint = "is it a training checkpoint? save its state dict alone" if isinstance(value, dict) else ""
        raise InputError(where, f"is a {type(value).__name__}", "a tensor", hint)
    if value.layout is not torch.strided or _dtype(value) not in DTYPES:
        got = f"is a tensor of {value.dtype}, {value.layout}, not supported as source"
        raise InputError(where, got, f"a dense tensor of {', '.join(DTYPES)}")
    if value.numel() * value.element_size() > file_size:
        got = f"its shape {shown(tuple(value.shape))} has more values than the file"
        raise InputError(where, got, "values that are stored", "do not trust this file")


def _dtype(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _without_aliases(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    kept: dict[str, torch.Tensor] = {}
    seen = set()
    for name, value in tensors.items():
        view = (value.untyped_storage().data_ptr(), value.storage_offset(), value.shape, value.stride(), value.dtype)
        if value.numel() == 0 or view not in seen:
            kept[name] = value
        seen.add(view)
    return kept


def _bytes(tensors: Iterable[torch.Tensor]) -> Iterator[memoryview]:
    """The bytes of every tensor in row-major order, one in memory at a time."""
    import torch

    for tensor in tensors:
        flat = tensor.detach().contiguous().reshape(-1)
        yield memoryview(flat.view(torch.uint8).numpy() if flat.numel() else b"")
