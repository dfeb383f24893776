"""What a weight file holds, from its header alone: safetensors, and what the formats say they can read."""

from __future__ import annotations

from pathlib import Path

from convert import registry
from convert.errors import InputError
from convert.files import open_regular
from convert.formats.facts import Facts, TensorSummary, facts
from convert.source.safetensors import read_header

START_BYTES = 9
CHECK = "check the path; a hub model is org/name[@revision]"
KINDS = "a .safetensors, .gguf or .onnx file"


def inspect_file(path: Path) -> Facts:
    """What the file at `path` holds. Raises InputError for one that is broken or of no format that is known."""
    if path.is_dir():
        raise InputError(str(path), "is a folder", KINDS)
    try:
        with open_regular(path) as file:
            start = file.read(START_BYTES)
        size = path.stat().st_size
    except FileNotFoundError:
        raise InputError(str(path), "does not exist", f"{KINDS}, or the folder of a checkpoint", CHECK) from None
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})") from None
    for format_ in registry.formats():
        if found := format_.inspect(path, start):
            return found
    if path.suffix != ".safetensors" and start[:2] in (b"PK", b"\x80\x02"):
        raise InputError(str(path), "is a pickle", KINDS, "use it as a recipe's model instead")
    # A safetensors file begins with the length of its header, 8 bytes, and the header's brace.
    if path.suffix != ".safetensors" and start and (start[8:] != b"{" or start[6:8] != b"\0\0"):
        raise InputError(str(path), "is not a file of a known format", KINDS)
    header = read_header(path)
    tensors = tuple(TensorSummary(e.name, e.dtype, e.shape, e.stop - e.start) for e in header.entries)
    return facts(path, "safetensors", size, header.metadata, tensors)
