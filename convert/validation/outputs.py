"""What a validation makes a row of its report of: every output of every format, once for each runtime it is run on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from convert import registry
from convert.bundle import Bundle
from convert.formats.base import SOURCE, Output

if TYPE_CHECKING:
    from validate.runtimes import Runtime

NONE: Mapping[str, Runtime] = MappingProxyType({})


def outputs(inputs: Mapping[str, Bundle], also_on: Mapping[str, Runtime] = NONE) -> list[Output]:
    """Every output there is, in the recipe's order: a stage that hands another's on makes no second row.

    Behind each output of a format that a runtime of `also_on` runs too comes a row for that runtime.
    """
    found: dict[Path, Output] = {}
    for stage, bundle in inputs.items():
        if stage != SOURCE:
            for output in registry.outputs(stage, bundle):
                found.setdefault(output.weights.path, replace(output, not_built=bundle.not_built))
    return _labelled([row for output in found.values() for row in (output, *_again(output, also_on))])


def _again(output: Output, also_on: Mapping[str, Runtime]) -> Iterator[Output]:
    for name, runtime in also_on.items():
        if output.weights.format in runtime.ALSO_RUNS:
            yield replace(output, on=name)


def _labelled(rows: Sequence[Output]) -> list[Output]:
    """The rows with labels: a GGUF file's name says all, `model.onnx` says nothing, the stage and the type do."""
    plain = [_plain_label(row) for row in rows]
    often = Counter(plain)
    exact = [
        label if often[label] == 1 else f"{row.stage}/{row.weights.path.name}" + (f"@{row.on}" if row.on else "")
        for row, label in zip(rows, plain, strict=True)
    ]
    return [replace(row, label=label) for row, label in zip(rows, exact, strict=True)]


def _plain_label(row: Output) -> str:
    name = row.weights.path.name if row.named_by_file else f"{row.stage}/{row.weights.type}"
    return f"{name}@{row.on}" if row.on else name
