"""Which checkpoints GPTQ, AWQ and FP8 folders can be made of: by the roles of the tensors, and by who quantizes."""

from __future__ import annotations

from convert.architectures import Family
from convert.errors import ConvertError
from convert.formats.base import Support
from convert.source.checkpoint import Checkpoint


def supports(checkpoint: Checkpoint) -> Support:
    """Yes for decoders of plain matrices."""
    from convert.formats.compressed.straight import CompressedScheme, StraightLayout
    from quantize.presets import PRESETS

    try:
        StraightLayout(checkpoint, CompressedScheme.of(PRESETS["FP8_DYNAMIC"])).check()
    except ConvertError as error:
        return Support(tuple(map(str, error.problems)))
    return Support()


def supports_family(family: Family) -> Support:
    """Yes where its models usually are decoders of plain matrices, experts too."""
    from convert.formats.compressed.folder import role_misfits

    return Support(tuple(map(str, role_misfits(family.usual_roles(), "fp8"))))
