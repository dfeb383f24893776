"""A GGUF file as the memory estimate looks at it: one that is planned, or one that is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from convert.estimate.model_file import ModelFile, Weight
from convert.formats.gguf.file_plan import FilePlan
from convert.formats.gguf.reader import read_gguf_header


def planned_file(*plans: FilePlan) -> ModelFile:
    """The planned file, or all files of one that is split: the first has the metadata."""
    fields = {field.key: field.value for field in plans[0].fields}
    weights = tuple(Weight(info.name, info.shape, info.nbytes) for plan in plans for info in plan.infos)
    return ModelFile(fields, weights, sum(plan.size for plan in plans))


def stored_file(paths: Sequence[Path]) -> ModelFile:
    """The file at `paths`, or all of one that is split, by their headers. Raises InputError for a broken one."""
    headers = [read_gguf_header(path) for path in paths]
    fields = {field.key: field.value for field in headers[0].fields}
    weights = tuple(Weight(t.name, t.shape, t.nbytes) for header in headers for t in header.tensors)
    return ModelFile(fields, weights, sum(path.stat().st_size for path in paths))
