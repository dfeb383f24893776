"""What a pickled state dict would import, read off its opcodes: nothing of it is run. A leaf.

Source of the layouts: torch/serialization.py (zip archive since 1.6; before that five pickles in a row, then bytes).
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from convert.errors import InputError
from convert.files import open_regular
from convert.source.untrusted import listed, refuse_pointer

MAX_PROGRAM_BYTES = 64 << 20  # of one pickle; that of a 3000-tensor model takes 300 kB
MAX_OPCODES = 3_000_000  # of one pickle; a tensor takes about thirty
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
MATRICES = {
    **{"Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16"},
    **{"Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8"},
}
"""Storages that weights may be in, plain or packed -> torch's dtype."""
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


def scan(path: Path) -> frozenset[str]:
    """What the pickle at `path` imports. Raises InputError unless that is only what plain tensors need.

    Nothing of it is run, nothing is unpacked; sizes are checked before anything is read.
    """
    try:
        with open_regular(path) as file:
            start = file.read(64)
            refuse_pointer(path, start)
            file.seek(0)
            programs = [_zipped_program(path)] if start.startswith(ZIP_START) else _legacy_programs(path, file)
            found = frozenset(name for program in programs for name in _imports(program))
            refused = sorted(found - ALLOWED)
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
    return found


def stored_types(path: Path) -> dict[str, str]:
    """The types of the matrices in the pickle at `path`, by a name for each; those of positions and masks are left out.

    Raises InputError as `scan` does.
    """
    names = {f"torch.{name}Storage": DTYPES[dtype] for name, dtype in MATRICES.items()}
    return {f"{found} weight": names[found] for found in sorted(scan(path)) if found in names}


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


def _legacy_programs(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """The pickles at the start of a file older than PyTorch 1.6; the tensors' bytes come after them."""
    raw = file.read(MAX_PROGRAM_BYTES)
    if raw[257:262] == b"ustar":
        raise InputError(str(path), "is in the tar format of PyTorch 0.1", "a newer state dict", "ask for safetensors")
    reader = io.BytesIO(raw)
    for _ in range(LEGACY_PICKLES):
        start = reader.tell()
        for _ in _opcodes(reader):
            pass
        yield raw[start : reader.tell()]


def _opcodes(program: bytes | io.BytesIO) -> Iterator[tuple[pickletools.OpcodeInfo, object]]:
    """Each with its argument. Raises ValueError for a program that is no pickle, or longer than any model's."""
    for number, (opcode, argument, _) in enumerate(pickletools.genops(program)):
        if number >= MAX_OPCODES:
            raise ValueError(f"more than {MAX_OPCODES:,} steps")
        yield opcode, argument


def _imports(program: bytes) -> Iterator[str]:
    """`module.name` of everything the pickle would import; "?" stands for a name that is only made when it runs."""
    recent: list[str] = []  # the texts on top of the stack, as far as they are literal
    memo: dict[int, str] = {}
    for opcode, argument in _opcodes(program):
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
