"""What a GGUF file holds, from its header alone."""

from __future__ import annotations

from pathlib import Path

from convert.formats.facts import Facts, TensorSummary, facts
from convert.formats.gguf.reader import read_gguf_header


def inspect(path: Path) -> Facts:
    """Its metadata and tensors. Raises InputError for one that is broken."""
    header = read_gguf_header(path)
    tensors = tuple(TensorSummary(t.name, t.type.name, t.shape, t.nbytes) for t in header.tensors)
    fields = {field.key: field.value for field in header.fields}
    return facts(path, f"GGUF {header.version}", path.stat().st_size, fields, tensors)
