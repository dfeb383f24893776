"""What the parts of the page below the table show, as plain values for the template."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from validate.report.outputs import short_names
from validate.report.schema import CheckEntry, DifferenceEntry, Output, Report, SliceEntry, TensorEntry
from validate.report.words import NOTHING, count, percent, scientific, scientific_range, visible

# ---- slices


@dataclass(frozen=True)
class SliceCell:
    """How many times the KL of all positions a part of them has; `tone` is its shade, `sure` beyond the noise."""

    text: str
    tone: str
    sure: bool
    detail: str


@dataclass(frozen=True)
class SliceTable:
    """Outputs down, parts across; `groups` are the kinds of parts with how many columns each has."""

    groups: list[tuple[str, int]]
    names: list[str]
    positions: list[str]
    rows: list[tuple[int, str, list[SliceCell]]]


_KINDS = (("set", "input set"), ("class", "kind of token"), ("position", "place in its window"))
_EVEN = SliceCell(NOTHING, "", False, "not measured")


def slice_table(report: Report) -> SliceTable | None:
    """KL of each part against all of an output's positions; None where nobody has parts."""
    outputs = report["outputs"]
    keys = {(s["kind"], s["name"]): s["positions"] for o in outputs for s in o["slices"]}
    kinds = [kind for kind, _ in keys]
    keys = {key: n for key, n in keys.items() if kinds.count(key[0]) > 1}  # one part of a kind is the whole
    if not keys:
        return None
    order = [key for kind, _ in _KINDS for key in keys if key[0] == kind]
    groups = [(title, n) for kind, title in _KINDS if (n := sum(key[0] == kind for key in order))]
    rows = [
        (i, scientific(kl), [_slice_cell(parts.get(key), kl) for key in order])
        for i, o in enumerate(outputs)
        if o["slices"] and (kl := o["metrics"].get("kl_mean")) is not None
        for parts in [{(s["kind"], s["name"]): s for s in o["slices"]}]
    ]
    return SliceTable(groups, [visible(key[1]) for key in order], [count(keys[key]) for key in order], rows)


def _slice_cell(part: SliceEntry | None, whole: float) -> SliceCell:
    if part is None or (kl := part["kl_mean"]) is None:
        return _EVEN
    low, high = part["kl_low"], part["kl_high"]
    detail = f"KL {scientific(kl)}"
    detail += "" if low is None or high is None else f" ({scientific_range(low, high)})"
    detail += "" if part["top1"] is None else f", same top token {percent(part['top1'], 2)} %"
    detail += "" if part["ppl_ratio"] is None else f", perplexity {part['ppl_ratio']:.4f} of the source's"
    if whole <= 0 or kl <= 0:
        return SliceCell("=" if kl == whole else scientific(kl), "", False, detail)
    ratio = kl / whole
    sure = low is not None and high is not None and not low <= whole <= high
    return SliceCell(_times(ratio), _tone(ratio), sure, detail)


def _times(ratio: float) -> str:
    return f"{ratio:.0f}×" if ratio >= 9.95 else f"{ratio:.1f}×" if ratio >= 0.095 else f"{ratio:.2f}×"


def _tone(ratio: float) -> str:
    """Seven shades, from a quarter or less (`n3`) over alike (`z`) to four times or more (`p3`)."""
    step = max(-3, min(3, round(math.log2(ratio) * 1.5)))
    return "z" if step == 0 else f"{'p' if step > 0 else 'n'}{abs(step)}"


# ---- tensors of GGUF files

SHADES = 12  # classes t0 … t12 of the style sheet; t0 is exact
_ERROR_LOW, _ERROR_HIGH = 1e-3, 0.5  # F16 loses 2e-4, eight bits a weight 5e-3, two bits 0.3
_BLOCK = re.compile(r"blk\.(\d{1,4})\.(.+?)(\.weight)?")


@dataclass(frozen=True)
class TensorCell:
    """An error in per cent with its shade; `type` is the tensor's."""

    text: str
    shade: str
    type: str


@dataclass(frozen=True)
class TensorRow:
    """A role of tensors and the type that most layers have; `other` says of each cell whether it has another."""

    role: str
    type: str
    cells: Sequence[tuple[TensorCell | None, bool]]


@dataclass(frozen=True)
class TensorMap:
    """Roles down, layers across; what lies in no layer in `others`, what is kept to the last bit by name in `exact`."""

    layers: list[int]
    rows: list[TensorRow]
    others: list[tuple[str, TensorCell]]
    exact: list[str]
    worst: tuple[str, str]


def tensor_map(tensors: Sequence[TensorEntry]) -> TensorMap | None:
    """The heat map of a file; None where its tensors were not compared."""
    if not tensors:
        return None
    grid: dict[str, dict[int, TensorEntry]] = {}
    others: list[tuple[str, TensorCell]] = []
    for tensor in tensors:
        if found := _BLOCK.fullmatch(tensor["name"]):
            grid.setdefault(found[2], {})[int(found[1])] = tensor
        else:
            others.append((visible(tensor["name"].removesuffix(".weight")), _tensor_cell(tensor)))
    layers = sorted({layer for row in grid.values() for layer in row})
    exact = [role for role, row in grid.items() if all(t["error"] == 0 for t in row.values())]
    rows = [_tensor_row(role, row, layers) for role, row in grid.items() if role not in exact]
    worst = max(tensors, key=lambda t: t["error"] or 0.0)
    top = (visible(worst["name"]), _tensor_cell(worst).text)
    return TensorMap(layers, rows, others, [visible(role) for role in exact], top)


def _tensor_row(role: str, row: Mapping[int, TensorEntry], layers: Sequence[int]) -> TensorRow:
    types = [tensor["type"] for tensor in row.values()]
    main = max(types, key=types.count)
    cells = [(_tensor_cell(row[n]), row[n]["type"] != main) if n in row else (None, False) for n in layers]
    return TensorRow(visible(role), visible(main), cells)


def _tensor_cell(tensor: TensorEntry) -> TensorCell:
    error, type_ = tensor["error"], visible(tensor["type"])
    if error is None:
        return TensorCell(NOTHING, "", f"{type_}, not compared")
    return TensorCell(_hundredths(error), f"t{_shade(error)}", type_)


def _hundredths(error: float) -> str:
    """Per cent in at most four characters."""
    value = error * 100
    if value < 0.005:
        return "<.01" if value > 0 else "0"
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.995 else f"{value:.2f}".lstrip("0")


def _shade(error: float) -> int:
    if error <= 0:
        return 0
    share = math.log(max(error, _ERROR_LOW) / _ERROR_LOW) / math.log(_ERROR_HIGH / _ERROR_LOW)
    return 1 + min(SHADES - 1, int(share * SHADES))


# ---- contract


@dataclass(frozen=True)
class CheckMark:
    """A check's outcome: `ok`, `note` (known, or within its limit), `bad`, or empty for what was not checked."""

    state: str
    text: str
    detail: str


@dataclass
class Differences:
    """The same differences of the same check, and every output that has them."""

    title: str
    note: str
    missed: str
    rows: list[DifferenceEntry]
    state: str
    outputs: list[str] = field(default_factory=list)


def checks(report: Report) -> list[tuple[str, str]]:
    """(name, title) of every check that some output had, in the order of the first that had it."""
    return list({name: visible(c["title"]) for o in report["outputs"] for name, c in o["contract"].items()}.items())


def contract_marks(output: Output, names: Iterable[str]) -> list[CheckMark]:
    """One row of the matrix."""
    return [_mark(output["contract"].get(name), output) for name in names]


def _mark(check: CheckEntry | None, output: Output) -> CheckMark:
    if check is None:
        return CheckMark("", NOTHING, "not checked")
    equal, total = check["equal"], check["total"]
    if not total:
        return CheckMark("", NOTHING, "nothing to compare")
    if equal == total:
        return CheckMark("ok", "✓", f"{equal} of {total}")
    if check["metric"] is None:
        return CheckMark("note", f"{equal}/{total}", "known, decides nothing")
    limit = output["limits"].get(check["metric"])
    if limit is None:
        return CheckMark("note", f"{equal}/{total}", "differs, has no limit")
    inside = equal / total >= limit["limit"]
    return (
        CheckMark("note", f"{equal}/{total}", "within its limit")
        if inside
        else CheckMark("bad", f"{equal}/{total}", "differs")
    )


def differences(report: Report) -> list[Differences]:
    """What differs, once for all outputs in which it does; what broke a limit first."""
    found: dict[tuple[object, ...], Differences] = {}
    for output, name in zip(report["outputs"], short_names(report), strict=True):
        for check in output["contract"].values():
            if check["equal"] == check["total"] and not check["note"]:
                continue
            state = _mark(check, output).state
            missed = check["total"] - check["equal"]
            key = (check["title"], check["note"], missed, state, *(tuple(d.values()) for d in check["differences"]))
            said = f"{missed} of {check['total']} differ" if missed else ""
            entry = Differences(visible(check["title"]), visible(check["note"]), said, check["differences"], state)
            found.setdefault(key, entry).outputs.append(name)
    return sorted(found.values(), key=lambda d: ("bad", "note", "ok", "").index(d.state))
