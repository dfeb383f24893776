"""Which checkpoints MLX folders can be made of: those whose type mlx-lm has a model for that is declared."""

from __future__ import annotations

from convert.architectures import Family
from convert.errors import ConvertError
from convert.formats.base import Support
from convert.formats.mlx.layout import Folder, Scheme
from convert.formats.mlx.models import FAMILIES
from convert.source.checkpoint import Checkpoint
from quantize.mlx_layout import Layout


def supports(checkpoint: Checkpoint) -> Support:
    """Yes where a model is declared that takes all its tensors."""
    try:
        Folder(checkpoint, Scheme(Layout(group_size=32))).check()
    except ConvertError as error:
        return Support(tuple(map(str, error.problems)))
    return Support()


def supports_family(family: Family) -> Support:
    """Yes where mlx-lm has a model for one of its classes at least."""
    if family.name in FAMILIES:
        return Support()
    return Support((f"mlx-lm has no model for {family.title}, or none that is declared",))
