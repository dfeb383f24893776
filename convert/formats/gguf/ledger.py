"""The ledger: every checkpoint tensor is used exactly once, or left out on purpose with the reason.

A projector file of 1.2 kB has been shipped by others because nobody counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from convert.architectures import Family, TensorRole
from convert.architectures._graph_spec import GraphSpec, LeftOut, SourceTensor
from convert.errors import Problem
from convert.source.checkpoint import LazyTensor

BYTES = ("U8", "I8", "F8_E8M0")  # that blocks are stored as
FLOATS = ("F64", "F32", "F16", "BF16")
NAMED = 5  # tensors that a message names


@dataclass(frozen=True)
class Entry:
    """A checkpoint tensor and what its family says of it."""

    source: LazyTensor
    tensor: SourceTensor
    spec: int  # which of the specs has it


@dataclass(frozen=True)
class Ledger:
    """Where every checkpoint tensor went. `entries` are in the order of the checkpoint's bytes."""

    entries: tuple[Entry, ...] = ()
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)  # by the checkpoint's own names
    tied: tuple[tuple[LazyTensor, LazyTensor], ...] = ()  # (left out because equal, kept): to be proven
    problems: tuple[Problem, ...] = ()
    numbers: Mapping[str, LazyTensor] = field(default_factory=dict)  # by the family's names, those of metadata fields


def match_tensors(
    sources: Mapping[str, LazyTensor],
    specs: Sequence[GraphSpec],
    family: Family | None = None,
    *,
    skip_vision: bool = False,
) -> Ledger:
    """The ledger of a checkpoint for the files `specs`; with `skip_vision` the family's tower is in none of them.

    What is wrong is in `problems`: tensors that are missing, unknown, there twice, of another shape, or no floats.
    """
    known = {t.source: (number, t) for number, spec in enumerate(specs) for t in spec.tensors if not t.borrowed}
    borrowed = {t.source: (number, t) for number, spec in enumerate(specs) for t in spec.tensors if t.borrowed}
    rules = [rule for spec in specs for rule in spec.left_out]
    found, problems = _known_as(sources, family)
    entries: list[Entry] = []
    left_out: dict[str, LeftOut] = {}
    unknown: list[str] = []
    for name, source in found.items():
        if name in known:
            number, tensor = known[name]
            entries.append(Entry(source, tensor, number))
        elif skip_vision and family and family.is_vision(source.name):
            left_out[source.name] = LeftOut(name, "the recipe leaves the vision tower out")
        elif rule := next((r for r in rules if r.covers(name)), None):
            left_out[source.name] = rule
        else:
            unknown.append(source.name)
        if name in borrowed:
            number, tensor = borrowed[name]
            entries.append(Entry(source, tensor, number))
    problems += _misfits(entries)
    missing = [name for name, (_, tensor) in known.items() if name not in found and not tensor.absent]
    heads = [name for name in missing if known[name][1].role is TensorRole.HEAD]
    problems += _headless(heads)
    problems += _lacking([name for name in missing if name not in heads], "lacks", "download the model again")
    problems += _lacking(unknown, "has unknown tensors:", "config.json describes another model, or they are new")
    stated = [name for spec in specs for values in spec.stated for name in values.sources]
    numbers = {name: found[name] for name in stated if name in found}
    problems += _lacking([name for name in stated if name not in found], "lacks", "download the model again")
    problems += _no_numbers(numbers.values())
    tied = ((sources[name], found[rule.same_as]) for name, rule in left_out.items() if rule.same_as in found)
    return Ledger(tuple(entries), left_out, tuple(tied), tuple(problems), numbers)


def _known_as(sources: Mapping[str, LazyTensor], family: Family | None) -> tuple[dict[str, LazyTensor], list[Problem]]:
    """The tensors by the names the family's tables use, in the same order."""
    found: dict[str, LazyTensor] = {}
    problems = []
    for name, source in sources.items():
        other = found.setdefault(family.own_name(name) if family else name, source)
        if other is not source:
            got = f"{name} and {other.name} are two names of one tensor"
            problems.append(Problem(source.file or "checkpoint", got, "one of them"))
    return found, problems


def _misfits(entries: Iterable[Entry]) -> list[Problem]:
    """Tensors that hold no floating-point numbers, and those the config describes otherwise: a problem each kind."""
    entries = list(entries)
    no_floats = [f"{e.source.name} of {e.source.dtype}" for e in entries if e.source.dtype not in _readable(e.tensor)]
    misshapen = [
        f"{e.source.name} {list(e.source.shape)} where it says {list(e.tensor.shape)}"
        for e in entries
        if tuple(e.source.shape) != e.tensor.shape
    ]
    problems = []
    if no_floats:
        remedy = "convert the model it was made from"
        problems.append(Problem("checkpoint", f"holds {_some(no_floats)}", f"one of {', '.join(FLOATS)}", remedy))
    if misshapen:
        remedy = "config.json and weights are of two models, or one is damaged"
        problems.append(Problem("config.json", f"disagrees with the weights: {_some(misshapen)}", "", remedy))
    if mixed := _mixed(entries):
        got = f"has experts of one layer in different types: {_some(mixed)}"
        problems.append(Problem("checkpoint", got, "one type", "convert it to one with transformers first"))
    return problems


def _no_numbers(tensors: Iterable[LazyTensor]) -> list[Problem]:
    """Tensors that metadata is made of and that are not one floating-point number."""
    wrong = [f"{t.name} {t.dtype} {list(t.shape)}" for t in tensors if t.dtype not in FLOATS or prod(t.shape) != 1]
    wanted, remedy = "one floating-point number each", "config.json and weights are of two models, or one is damaged"
    return [Problem("checkpoint", f"holds {_some(wrong)}", wanted, remedy)] if wrong else []


def _readable(tensor: SourceTensor) -> tuple[str, ...]:
    """The types a checkpoint tensor may have for what becomes of it."""
    return BYTES if any(output.packed for output in tensor.outputs) else FLOATS


def _mixed(entries: Iterable[Entry]) -> list[str]:
    """GGUF tensors made of several that are not all stored alike."""
    kinds: dict[str, set[str]] = {}
    for entry in entries:
        for output in entry.tensor.outputs:
            if output.place is not None and not output.packed:
                kinds.setdefault(output.name, set()).add(entry.source.dtype)
    return [f"{name} from {' and '.join(sorted(types))}" for name, types in kinds.items() if len(types) > 1]


def _headless(heads: Sequence[str]) -> list[Problem]:
    """That there is no output head, where the embedding is not said to be one."""
    return [
        Problem(
            "checkpoint",
            f"lacks {name}, the output head, and tie_word_embeddings is false (or its default) in config.json",
            "a head of its own, or a config that ties it to the embedding",
            "if the model was trained with the two tied, set tie_word_embeddings to true in config.json; if not, the "
            "head was lost when it was saved: save the model again, whole, where it was trained or merged",
        )
        for name in heads
    ]


def _lacking(names: Sequence[str], what: str, remedy: str) -> list[Problem]:
    if not names:
        return []
    return [Problem("checkpoint", f"{what} {_some(names)}", "every tensor used once or left out on purpose", remedy)]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
