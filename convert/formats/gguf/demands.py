"""What the types asked for want of tensors: names to be about, whole blocks, importance weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from convert.errors import PlanError, Problem
from convert.formats.gguf.file_plan import TensorInfo
from convert.formats.gguf.imatrix import Imatrix
from convert.formats.gguf.tensors import StreamedTensor
from convert.formats.gguf.writer import Group
from quantize.mixes import MIXES, Asked, Tensor, needs_imatrix, override_pattern

if TYPE_CHECKING:
    from convert.formats.gguf.conversion import ConversionSettings

EMBEDDING = "token_embd.weight"


def whole_blocks(infos: Iterable[TensorInfo]) -> tuple[TensorInfo, ...]:
    """The tensors. Raises PlanError for rows that are no whole blocks of a type that no other takes the place of."""
    found = tuple(infos)
    if unfit := [info for info in found if not info.type.fits(info.shape[-1])]:
        first, kind = unfit[0], unfit[0].type
        got = f"{first.name} has rows of {first.shape[-1]} values" + (" and others too" if len(unfit) > 1 else "")
        wanted, remedy = f"a multiple of {kind.values} for {kind.name}", "use another type for it with overrides"
        raise PlanError(Problem("overrides", got, wanted, remedy))
    return found


def ternary_notes(types: Iterable[str]) -> tuple[str, ...]:
    """What types for models of three values do to all others."""
    asked = " and ".join(kind for kind in dict.fromkeys(types) if kind.startswith("TQ"))
    words = "for models trained on -1, 0 and 1, as BitNet: of any other most weights become 0"
    return (f"{asked}: {words}",) if asked else ()


def strays(asked: Asked, tensors: Sequence[StreamedTensor]) -> list[Problem]:
    """Overrides that are about no tensor, or only about such as have their blocks already."""
    names = [t.name for t in tensors if not t.output.packed]
    strays = [p for p, _ in asked.overrides if not any(override_pattern(p).search(name) for name in names)]
    remedy = "names are like blk.0.ffn_down.weight; `convert plan --explain-types` without it lists them"
    return [Problem("overrides", f"{pattern!r} matches no tensor's name", "", remedy) for pattern in strays]


def lacking_weights(settings: ConversionSettings, text: Group, imatrix: Imatrix | None) -> list[Problem]:
    """Tensors that are garbage without importance weights, and have none."""
    known: Iterable[str] = imatrix.entries if imatrix else {}
    lacking: dict[str, list[TensorInfo]] = {}
    for kind, plans in zip(dict.fromkeys(settings.types), text.volumes, strict=True):
        infos = [info for plan in plans for info in plan.infos]
        bare = [i for i in infos if i.name not in known and needs_imatrix(MIXES[kind], Tensor(i.name, i.shape), i.type)]
        if settings.awaited:  # a pass sees every matrix of the layers; the embedding's rows are looked up
            bare = [i for i in bare if i.name == EMBEDDING]
        if bare:
            lacking[kind] = bare
    if lacking and imatrix is None and not settings.awaited:
        return [_no_imatrix(list(lacking))]
    return [_lacks_weights(kind, bare) for kind, bare in lacking.items()]


def _no_imatrix(kinds: Sequence[str]) -> Problem:
    *first, last = kinds
    got = f"{', '.join(first)} and {last} need" if first else f"{last} needs"
    remedy = "take from a stage with `use: imatrix`, or say `imatrix: {}` for one made on the way"
    return Problem("types", f"{got} an imatrix, and there is none", "", remedy)


def _lacks_weights(kind: str, bare: Sequence[TensorInfo]) -> Problem:
    """That some tensors have no importance weights in the matrix that there is."""
    more = f" and {len(bare) - 1} others" if len(bare) > 1 else ""
    got = f"{kind} needs an imatrix, and there is none for {bare[0].name} ({bare[0].type.name}){more}"
    remedy = "use another type for what it lacks with overrides, token_embedding or output_tensor"
    return Problem("types", got, "", remedy)
