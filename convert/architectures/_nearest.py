"""The family that comes nearest to a checkpoint no family serves, by the tensors its table would take: what to add."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convert import architectures
from convert.architectures._graph_spec import GraphSpec
from convert.errors import ConvertError

ENOUGH = 0.5  # of the kinds of tensors
NUMBER = re.compile(r"\b\d+\b")


@dataclass(frozen=True)
class Nearest:
    """Kinds of tensors are names without the numbers of layers and experts."""

    family: str
    kinds: int  # that the checkpoint has
    unknown: tuple[str, ...]  # those the family's table has not, or has with another shape
    lacking: tuple[str, ...]  # those the table wants besides, by its own names


def nearest(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Nearest | None:
    """The nearest family; None where none takes the config and half of the tensors."""
    best: Nearest | None = None
    for served, name in architectures.known().items():
        family = architectures.load(name)
        try:
            part: GraphSpec = family.text({**config, "architectures": [served]})
        except ConvertError:
            continue
        found = _compared(name, part, shapes, getattr(family, "RENAMES", ()))
        if best is None or _distance(found) < _distance(best):
            best = found
    return best if best and len(best.unknown) < ENOUGH * best.kinds else None


def _distance(found: Nearest) -> tuple[int, int]:
    return len(found.unknown) + len(found.lacking), len(found.unknown)


def _compared(
    family: str, part: GraphSpec, shapes: Mapping[str, tuple[int, ...]], renames: Sequence[tuple[str, str]]
) -> Nearest:
    wanted = {want.source: want.shape for want in part.wanted}
    kinds: dict[str, bool] = {}  # whether the table takes every tensor of the kind
    for name, shape in shapes.items():
        known = next((new + name.removeprefix(old) for old, new in renames if name.startswith(old)), name)
        taken = wanted.pop(known, None) == shape or any(rule.covers(known) for rule in part.left_out)
        kinds[_kind(name)] = kinds.get(_kind(name), True) and taken
    unknown = tuple(kind for kind, taken in kinds.items() if not taken)
    return Nearest(family, len(kinds), unknown, tuple(dict.fromkeys(map(_kind, wanted))))


def _kind(name: str) -> str:
    return NUMBER.sub("{i}", name)
