"""Which checkpoints GPTQ, AWQ and FP8 folders can be made of: by the roles of the tensors, and by who quantizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from convert.architectures import Family
from convert.errors import ConvertError, Problem
from convert.formats.base import Support
from convert.source.checkpoint import Checkpoint

if TYPE_CHECKING:
    from convert.formats.compressed.folder import Layout


def supports(checkpoint: Checkpoint) -> Support:
    """Yes for decoders of plain matrices. That is all FP8 asks; GPTQ and AWQ take fewer, see `misfits`."""
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
    from convert.formats.compressed.straight import TAKEN

    return Support(tuple(map(str, role_misfits(family.usual_roles(), "fp8", TAKEN))))


def misfits(layout: Layout) -> Iterator[Problem]:
    """What keeps the model from being quantized by the layout's method, whatever the shapes."""
    from convert.formats.compressed.gptqmodel_models import GPTQMODEL_LOADS, gptqmodel_loads

    found = list(layout.misfits())
    yield from found
    kind = str(layout.checkpoint.config.get("model_type"))[:60]
    if not found and layout.scheme.method in GPTQMODEL_LOADS and not gptqmodel_loads(kind):
        got = f"model_type {kind!r}: the installed gptqmodel, which quantizes, does not load it"
        yield Problem(layout.scheme.method, got, "", "fp8 needs no library and takes it")


def untested(layout: Layout) -> Iterator[str]:
    """A note where no test makes such a folder of this family; FP8's are made of every one that its roles allow."""
    from convert.formats.compressed.gptqmodel_models import GPTQMODEL_LOADS

    family, method = layout.roles.family, layout.scheme.method
    if method in GPTQMODEL_LOADS and method not in family.tested:
        yield f"no test makes {method} of {family.title}: let a validate stage look at it"
