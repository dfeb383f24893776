"""The words of `limits:`, and what they come to for each row of the report."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, WithJsonSchema

from convert.errors import Problem
from convert.formats.base import EVERYTHING, Output
from convert.json_types import JsonDict, JsonObject
from convert.suggest import SHOWN
from validate import gates
from validate.embeddings import TEXT
from validate.metrics import DEFINITIONS, default_limits

if TYPE_CHECKING:
    from validate.measurement import Measurement

LIMITS = (
    "a type (Q8_0), a stage, stage/type, '*', or a pattern (Q4_*, gguf/*) -> a preset's name ("
    + ", ".join(gates.PRESETS)
    + "), or metrics with their limits, `preset:` among them; the more exact one counts, and of a preset and a type's "
    "own default the stricter. "
    "Behind each, @openvino addresses its row of `also_on`"
)


def _read(entry: str | JsonObject) -> dict[str, float | str]:
    """One entry of `limits:`; a preset's name alone is short for a mapping with nothing else in it."""
    if wrong := gates.mistakes(entry):
        raise ValueError("; ".join(wrong))
    if isinstance(entry, str):
        return {gates.PRESET: entry}
    return {name: limit if isinstance(limit, str) else float(limit) for name, limit in entry.items()}


def _schema() -> JsonDict:
    """What an editor may offer."""
    preset = {"enum": list(gates.PRESETS), "description": "; ".join(f"{n}: {p.meaning}" for n, p in _presets())}
    numbers = {
        name: {"type": "number", "minimum": 0, "description": f"{d.better} {d.meaning}"}
        for name, d in DEFINITIONS.items()
    }
    mapping = {"type": "object", "additionalProperties": False, "properties": {gates.PRESET: preset, **numbers}}
    return {"anyOf": [preset, mapping]}


def _presets() -> Iterator[tuple[str, gates.Preset]]:
    yield from gates.PRESETS.items()


Entry = Annotated[dict[str, float | str], BeforeValidator(_read), WithJsonSchema(_schema())]
Limits = dict[str, Entry]


def limits_of(
    limits: Mapping[str, gates.Entry], row: Output, measured: Collection[str] | None = None, gives: str = TEXT
) -> gates.Gates:
    """Metric -> (limit, where it is from) of a row; given what was measured of it, those that are to be judged.

    `gives` is what the model gives: text, embeddings or scores.
    """
    projector = row.projector.type if row.projector else None
    found = gates.gates(limits, list(row.names), row.weights.type, projector, gives)
    return found if measured is None else gates.applicable(found, measured)


EXACT = ("F32", "FP32", "F16", "FP16", "BF16")  # types of files whose drift is the runtime's, not the weights'
SOURCES_OWN = ("transformers", "gptqmodel")  # runtimes that compute with the source's own code


def proven(rows: Sequence[Output], found: Sequence[Measurement]) -> list[bool]:
    """Of each row, whether its tensors are the source's as its type rounds, on a runtime that computes the model right.

    A runtime does where a file of an exact type stays within its limit on it.
    """
    right = {
        _runtime(m)
        for row, m in zip(rows, found, strict=True)
        if row.weights.type.upper() in EXACT
        and m.metrics.get("kl_mean", math.inf) <= default_limits(row.weights.type)["kl_mean"]
    }
    return [m.metrics.get("tensors_equal") == 1 and (_runtime(m) in right or _runtime(m) in SOURCES_OWN) for m in found]


def _runtime(measurement: Measurement) -> str:
    return measurement.runtime.partition(" (")[0]


def addressed(names: Collection[str], row: Output) -> bool:
    """Whether one of the names or patterns means the row."""
    return any(gates.addresses(name, row.names) for name in names)


def explain_limits(limits: Mapping[str, gates.Entry], rows: Sequence[Output], gives: str = TEXT) -> list[str]:
    """What each row will be held to, for `convert plan -v`."""
    return [f"{row.label}: {', '.join(gates.in_words(limits_of(limits, row, None, gives)))}" for row in rows]


def unknown_names(what: str, names: Collection[str], rows: Sequence[Output], also_on: Sequence[str]) -> list[Problem]:
    """A problem for each name or pattern that means no row."""
    known = {EVERYTHING} | {name for row in rows for name in row.names}
    return [
        _unknown(what, name, known, also_on)
        for name in names
        if name not in known and not any(gates.addresses(name, row.names) for row in rows)
    ]


def _unknown(what: str, name: str, known: set[str], also_on: Sequence[str]) -> Problem:
    near = difflib.get_close_matches(name.replace("*", ""), known, 1)
    hint = f"did you mean '{near[0]}'?" if near else ""
    row, _, runtime = name.partition("@")
    if runtime and not also_on and gates.addresses(row, known):
        hint = f"add `also_on: {runtime}`"
    listed = sorted(known)
    wanted = f"one of {', '.join(listed[:SHOWN])}" + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")
    return Problem("validate", f"{what} for '{name}', which is no output of this recipe", wanted, hint)
