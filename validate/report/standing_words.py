"""What the parts of a page about all outputs together show, as plain values: ranking, noise floors, answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from validate.report.outputs import ends, short_names
from validate.report.schema import ChoiceChange, ChoiceCounts, DuelEntry, Output, Report
from validate.report.standing import runtime
from validate.report.words import NOTHING, count, listed, percent, plain, scientific, visible

MOST_DUELS = 24  # sentences about pairs of a size

# ---- ranking


@dataclass(frozen=True)
class Place:
    """Outputs that cannot be told apart, by index and short name, and what the first has on the first behind them."""

    number: int
    outputs: Sequence[tuple[int, str]]
    kl: str
    ahead: str


@dataclass(frozen=True)
class Standings:
    """The ranking, sentences about pairs of about the same size, and how many of those are left out."""

    places: Sequence[Place]
    same_size: Sequence[str]
    more: int


def standings(report: Report) -> Standings | None:
    """The ranking of a report's outputs; None where there is none."""
    ranking = report.get("ranking")
    if ranking is None:
        return None
    known = {o["label"]: (i, name) for i, (o, name) in enumerate(_named(report))}
    places, number = [], 1
    groups = [[label for label in group if label in known] for group in ranking["groups"]]
    for group, behind in zip(groups, [*groups[1:], []], strict=True):
        if group:
            ahead = next((d for d in ranking["duels"] if behind and _is_of(d, group[0], behind[0])), None)
            kl = report["outputs"][known[group[0]][0]]["metrics"].get("kl_mean")
            shown = NOTHING if kl is None else scientific(kl)
            places.append(Place(number, [known[label] for label in group], shown, _ahead(ahead)))
            number += len(group)
    same = [sentence(d, known[d["better"]][1], known[d["worse"]][1]) for d in _same_size(ranking["duels"], known)]
    return Standings(places, same[:MOST_DUELS], max(0, len(same) - MOST_DUELS))


def _named(report: Report) -> Iterable[tuple[Output, str]]:
    return zip(report["outputs"], short_names(report), strict=True)


def _is_of(duel: DuelEntry, better: str, worse: str) -> bool:
    return (duel["better"], duel["worse"]) == (better, worse)


def _same_size(duels: Sequence[DuelEntry], known: dict[str, tuple[int, str]]) -> list[DuelEntry]:
    found = [d for d in duels if d["same_size"] and d["better"] in known and d["worse"] in known]
    return sorted(found, key=lambda d: (d["tied"], -d["low"]))


def _ahead(duel: DuelEntry | None) -> str:
    return "" if duel is None else f"{_percent(duel['by'])} % ({_range(duel)})"


def sentence(duel: DuelEntry, better: str, worse: str) -> str:
    """`a beats b by 38 % (35 to 41 %)`: of mean KL."""
    if duel["tied"]:
        return f"{better} and {worse} cannot be told apart ({_range(duel)})"
    return f"{better} beats {worse} by {_percent(duel['by'])} % ({_range(duel)})"


def _range(duel: DuelEntry) -> str:
    return f"{_percent(duel['low'])} to {_percent(duel['high'])} %"


def _percent(share: float) -> str:
    """Whole per cents; more digits where fewer would say 0 of what is not, or 100 of what is not all."""
    if share and abs(share) < 0.005:
        return f"{share * 100:.1f}"
    return percent(share, 0)


# ---- noise floors


def floors(report: Report) -> list[str]:
    """A sentence for each runtime's floor, and one that names the runtimes without one."""
    known = {o["label"]: name for o, name in _named(report)}
    found = report.get("noise_floor")
    if found is None:
        return []
    said = [
        f"The noise floor of {visible(f['runtime'])} is KL {scientific(f['kl_mean'])}: "
        f"{known[f['output']]} holds the source's own weights."
        for f in found
        if f["output"] in known
    ]
    has = {f["runtime"] for f in found}
    ran = dict.fromkeys(runtime(o) for o in report["outputs"] if o["metrics"].get("kl_mean") is not None)
    without = [visible(name) for name in ran if name not in has]
    if without:
        said.append(
            f"There is none for {listed(without)}: no output there holds the source's weights unrounded. One of type "
            "F32 (GGUF) or fp32 (ONNX) in the recipe would be it."
        )
    return said


def above_floor(output: Output) -> str:
    """`3.1×`; empty where no floor is known."""
    ratio = output.get("above_floor")
    return "" if ratio is None else f"{times(ratio)}×"


def times(ratio: float) -> str:
    """`1.0`, `3.1`, `42`, `1 260`, `1.3e5`."""
    if ratio >= 9999.5:
        mantissa, exponent = f"{ratio:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{ratio:.1f}" if ratio < 9.95 else count(float(f"{ratio:.3g}"))


# ---- multiple-choice items


@dataclass(frozen=True)
class Answers:
    """A row of answers: shares in per cent, flips as counts."""

    index: int
    first: bool  # of all items, and not of one set
    set: str
    items: int
    right: str
    interval: str
    reference: str
    lost: int
    won: int
    astray: int
    p: str
    normalized: str


def answers(report: Report) -> list[Answers]:
    """For each output that was asked a row of all its items, then one of each set where there are several."""
    rows = []
    for i, output in enumerate(report["outputs"]):
        found = output.get("choices")
        if found:
            norm = found["normalized"]
            both = f"{_share(norm['right'], norm)} % ({_share(norm['right_reference'], norm)} %)"
            rows.append(_answers((i, True), found["all"], _interval(output), both))
            rows += [_answers((i, False), counts, "", "") for counts in found["sets"]]
    return rows


def _answers(place: tuple[int, bool], counts: ChoiceCounts, interval: str, normalized: str) -> Answers:
    return Answers(
        *place,
        visible(counts["name"]),
        counts["items"],
        _share(counts["right"], counts),
        interval,
        _share(counts["right_reference"], counts),
        counts["right_to_wrong"],
        counts["wrong_to_right"],
        counts["wrong_to_wrong"],
        plain(counts["p"]),
        normalized,
    )


def _share(right: int, counts: ChoiceCounts) -> str:
    return percent(right / counts["items"]) if counts["items"] else NOTHING


def _interval(output: Output) -> str:
    found = ends(output, "choice_accuracy")
    return "" if found is None else f"{percent(found[0])}–{percent(found[1])}"


def changes(report: Report) -> list[tuple[int, ChoiceChange]]:
    """The items that changed, of each output."""
    return [(i, c) for i, o in enumerate(report["outputs"]) if (e := o.get("choices")) for c in e["changes"]]
