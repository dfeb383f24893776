"""The ledger: every checkpoint tensor is used exactly once, or left out on purpose with the reason.

A projector file of 1.2 kB has been shipped by others because nobody counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from convert.architectures._part import LeftOut, Part, Wanted
from convert.checkpoint import LazyTensor
from convert.errors import Problem

FLOATS = ("F64", "F32", "F16", "BF16")
NAMED = 10  # tensors that a message names

Rename = tuple[str, str]


@dataclass(frozen=True)
class Entry:
    """A checkpoint tensor and what it is wanted for."""

    source: LazyTensor
    wanted: Wanted
    part: int  # which of the parts wants it


@dataclass(frozen=True)
class Ledger:
    """Where every checkpoint tensor went. `entries` are in the order of the checkpoint's bytes."""

    entries: tuple[Entry, ...]
    left_out: Mapping[str, LeftOut]  # by the checkpoint's own names
    twins: tuple[tuple[LazyTensor, LazyTensor], ...]  # left out because equal: to be proven before writing
    problems: tuple[Problem, ...]


def settle(
    sources: Mapping[str, LazyTensor],
    parts: Sequence[Part],
    skipped: Sequence[Part] = (),
    renames: Iterable[Rename] = (),
) -> Ledger:
    """The ledger of a checkpoint for the files `parts`; tensors of `skipped` parts are left out as asked.

    What is wrong is in `problems`: tensors that are missing, unknown, there twice, of another shape, or no floats.
    """
    renames = tuple(renames)
    wanted = {w.source: (number, w) for number, part in enumerate(parts) for w in part.wanted}
    unwanted = {w.source for part in skipped for w in part.wanted}
    rules = [rule for part in (*parts, *skipped) for rule in part.left_out]
    found: dict[str, LazyTensor] = {}
    entries: list[Entry] = []
    left_out: dict[str, LeftOut] = {}
    unknown: list[str] = []
    problems: list[Problem] = []
    for name, source in sources.items():
        known_as = _renamed(name, renames)
        if known_as in found:
            other = found[known_as].name
            problems.append(Problem(source.file or name, f"{name} and {other} are the same tensor", "one of them"))
            continue
        found[known_as] = source
        if known_as in wanted:
            entries.append(Entry(source, wanted[known_as][1], wanted[known_as][0]))
        elif known_as in unwanted:
            left_out[name] = LeftOut(known_as, "the recipe leaves the vision tower out")
        elif rule := next((r for r in rules if known_as.endswith(r.suffix)), None):
            left_out[name] = rule
        else:
            unknown.append(name)
    problems += _misfits(entries)
    problems += _lacking([w for w in wanted if w not in found], "lacks", "download the model again")
    problems += _lacking(unknown, "has tensors no rule takes:", "config.json describes another model, or they are new")
    twins = tuple(
        (sources[name], found[rule.same_as])
        for name, rule in left_out.items()
        if rule.same_as and rule.same_as in found
    )
    return Ledger(tuple(entries), left_out, twins, tuple(problems))


def _renamed(name: str, renames: Iterable[Rename]) -> str:
    """The name with the first beginning that applies replaced."""
    return next((new + name.removeprefix(old) for old, new in renames if name.startswith(old)), name)


def _misfits(entries: Iterable[Entry]) -> list[Problem]:
    """Tensors the config describes otherwise, or that hold no floating-point numbers."""
    problems = []
    for entry in entries:
        source = entry.source
        if source.dtype not in FLOATS:
            got, wanted = f"holds {source.dtype} values", f"one of {', '.join(FLOATS)}"
            problems.append(Problem(f"tensor {source.name}", got, wanted, "convert the model it was made from"))
        elif tuple(source.shape) != entry.wanted.shape:
            got = f"config disagrees with tensor {source.name}: got {list(source.shape)}"
            problems.append(Problem("config.json", got, str(list(entry.wanted.shape))))
    if len(problems) > NAMED:
        problems[NAMED:] = [Problem("checkpoint", f"{len(problems) - NAMED} more tensors like these")]
    return problems


def _lacking(names: Sequence[str], what: str, remedy: str) -> list[Problem]:
    if not names:
        return []
    shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    return [Problem("checkpoint", f"{what} {shown}", "every tensor used once or left out on purpose", remedy)]
