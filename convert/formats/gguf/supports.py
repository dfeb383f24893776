"""Which checkpoints GGUF files can be made of."""

from __future__ import annotations

from convert.architectures import Family
from convert.architectures._nearest import family_of
from convert.errors import ConvertError
from convert.formats.base import Support
from convert.source.checkpoint import Checkpoint, shapes_of


def supports(checkpoint: Checkpoint) -> Support:
    """Yes where a family serves the config; else what it says is wrong."""
    try:
        family_of(checkpoint.config, lambda: shapes_of(checkpoint.tensors)).text(checkpoint.config)
    except ConvertError as error:
        return Support(tuple(map(str, error.problems)))
    return Support()


def supports_family(family: Family) -> Support:
    """Yes: a family is a table of the tensors of GGUF files."""
    del family
    return Support()
