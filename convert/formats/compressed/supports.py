"""Which checkpoints GPTQ, AWQ and FP8 folders can be made of."""

from __future__ import annotations

from convert.errors import ConvertError
from convert.formats.base import Support
from convert.source.checkpoint import Checkpoint


def supports(checkpoint: Checkpoint) -> Support:
    """Yes where the layers are made of matrices that the loaders know."""
    from convert.formats.compressed.folder import Layout
    from convert.formats.compressed.scheme import Scheme

    try:
        Layout(checkpoint, Scheme("gptq", 4, 128, True)).check()
    except ConvertError as error:
        return Support(tuple(map(str, error.problems)))
    return Support()
