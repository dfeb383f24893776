"""The family that comes nearest to a checkpoint no family serves, by the tensors its table has: what to add."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from convert import architectures
from convert.architectures import Family
from convert.architectures._graph_spec import GraphSpec
from convert.errors import ConvertError
from convert.json_types import JsonObject

ENOUGH = 0.5  # of the kinds of tensors
NUMBER = re.compile(r"\b\d+\b")


@dataclass(frozen=True)
class Nearest:
    """Kinds of tensors are names without the numbers of layers and experts."""

    family: str
    kinds: int  # that the checkpoint has
    unknown: tuple[str, ...]  # those the family's table has not, or has with another shape, which is then said
    lacking: tuple[str, ...]  # those the table wants besides, by its own names


def nearest(config: JsonObject, shapes: Mapping[str, tuple[int, ...]]) -> Nearest | None:
    """The nearest family; None where none takes the config and half of the tensors."""
    best: Nearest | None = None
    for served, name in architectures.known().items():
        family = architectures.load(name)
        try:
            spec = family.text({**config, "architectures": [served]})
        except ConvertError:
            continue
        found = _compared(family, spec, shapes)
        if best is None or _distance(found) < _distance(best):
            best = found
    return best if best and len(best.unknown) < ENOUGH * best.kinds else None


def _distance(found: Nearest) -> tuple[int, int]:
    return len(found.unknown) + len(found.lacking), len(found.unknown)


def _compared(family: Family, spec: GraphSpec, shapes: Mapping[str, tuple[int, ...]]) -> Nearest:
    lacking = {tensor.source: tensor.shape for tensor in spec.tensors}
    unknown: dict[str, str] = {}  # kind -> what is wrong with the first that the table does not take
    for name, shape in shapes.items():
        own = family.own_name(name)
        wanted = lacking.pop(own, None)
        if wanted != shape and not any(rule.covers(own) for rule in spec.left_out):
            unknown.setdefault(_kind(name), f" ({_size(shape)}, not {_size(wanted)})" if wanted else "")
    kinds = set(map(_kind, shapes))
    said = tuple(kind + wrong for kind, wrong in unknown.items())
    return Nearest(family.name, len(kinds), said, tuple(dict.fromkeys(map(_kind, lacking))))


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _kind(name: str) -> str:
    return NUMBER.sub("{i}", name)
