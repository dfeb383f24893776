"""The top of the page: how many passed, what failed and how surely, and what stands out among those that passed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from validate.gates import PROVEN
from validate.metrics import number, resampled
from validate.report.advice import advice, kept
from validate.report.outputs import ends, short_names
from validate.report.schema import Limit, Output, Report
from validate.report.words import listed, percent, plural, scientific, size, visible
from validate.statistics import SURE


@dataclass(frozen=True)
class Gate:
    """A limit and what became of it.

    `state`: broken, close (kept, but missed on more than a twentieth of resampled texts), kept, unknown.
    """

    metric: str
    value: str
    better: str
    limit: str
    source: str
    state: str
    certainty: str


@dataclass(frozen=True)
class Trouble:
    """An output that did not pass; `reason` is what its gates do not tell."""

    index: int
    label: str
    status: str
    reason: str
    gates: list[Gate]


@dataclass(frozen=True)
class Fact:
    """One thing to know before the tables."""

    title: str
    value: str
    detail: str
    state: str = ""


def sentence(outputs: Sequence[Output]) -> str:
    """The verdict in one sentence."""
    if not outputs:
        return "Nothing was validated"
    ran = [o for o in outputs if not o["neutral"]]
    bad = sum(o["status"] != "passed" for o in ran)
    left = len(outputs) - len(ran)
    if not ran:
        return "Built and not run" if left == 1 else f"All {left} outputs were built and not run"
    if len(outputs) == bad == 1:
        return "The output did not pass"
    if bad:
        return f"{bad} of {plural(len(outputs), 'output')} did not pass"
    passed = "The output passed" if len(ran) == 1 else f"All {len(ran)} outputs passed"
    return f"{passed}, {left} more built and not run" if left else passed


def state(outputs: Sequence[Output]) -> str:
    """`bad` when something did not pass, `ok` when something passed, `idle` when nothing was run."""
    if any(o["status"] != "passed" and not o["neutral"] for o in outputs):
        return "bad"
    return "ok" if any(o["status"] == "passed" for o in outputs) else "idle"


def counts(outputs: Sequence[Output]) -> list[tuple[str, str, int]]:
    """(status, word, how many), those with none left out."""
    words = (("failed", "failed"), ("not_run", "not run"), ("passed", "passed"))
    return [(s, word, n) for s, word in words if (n := sum(o["status"] == s for o in outputs))]


def gates(output: Output) -> list[Gate]:
    """Every limit of an output, the broken ones first."""
    found = [_gate(name, limit, output) for name, limit in output["limits"].items()]
    return sorted(found, key=lambda gate: ("broken", "unknown", "close", "kept").index(gate.state))


def _gate(name: str, limit: Limit, output: Output) -> Gate:
    value, inside, p = output["metrics"].get(name), kept(output, name), limit["p_worse"]
    shown = "not measured" if value is None else number(value, limit["limit"])
    state = "unknown" if inside is None else "broken" if not inside else "close" if _close(p) else "kept"
    better = {"<=": "≤", ">=": "≥"}.get(limit["better"], limit["better"])
    return Gate(
        visible(name), shown, better, f"{limit['limit']:g}", visible(limit["source"]), state, _certainty(name, state, p)
    )


def _close(p_worse: float | None) -> bool:
    return p_worse is not None and p_worse > 1 - SURE


def _certainty(name: str, state: str, p_worse: float | None) -> str:
    if p_worse is None or state in ("unknown", "kept"):
        return ""
    missed = f"{percent(p_worse, 0)} % of resampled {resampled(name)} miss it"
    if state == "broken":
        return f"surely: {missed}" if p_worse >= SURE else f"not surely: {missed}"
    return f"not surely: {missed}"


def troubles(report: Report) -> list[Trouble]:
    """Every output that did not pass: those that failed before those that were not run."""
    found = [_trouble(i, o) for i, o in enumerate(report["outputs"]) if o["status"] != "passed"]
    return sorted(found, key=lambda t: t.status != "failed")


def _trouble(index: int, output: Output) -> Trouble:
    """The gates that the reason names, and the rest of the reason."""
    reasons = output["reason"].split("; ")
    missed = [g for g in gates(output) if g.state in ("broken", "unknown")]
    named = [g for g in missed if any(reason.startswith(f"{g.metric} ") for reason in reasons)]
    rest = [reason for reason in reasons if not any(reason.startswith(f"{g.metric} ") for g in named)]
    return Trouble(index, visible(output["label"]), output["status"], visible("; ".join(rest)), named)


def to_do(report: Report) -> list[tuple[list[str], str]]:
    """What to do, each once: (the outputs that it would help, a sentence)."""
    found: dict[str, list[str]] = {}
    for output, name in zip(report["outputs"], short_names(report), strict=True):
        for said in advice(output):
            found.setdefault(visible(said[:1].upper() + said[1:]), []).append(name)
    return [(names, said) for said, names in found.items()]


def close_calls(report: Report) -> list[tuple[int, str, Gate]]:
    """Outputs that passed a limit they would miss on more than a twentieth of resampled texts."""
    return [
        (i, visible(o["label"]), gate)
        for i, o in enumerate(report["outputs"])
        if o["status"] == "passed"
        for gate in gates(o)
        if gate.state == "close"
    ]


def facts(report: Report) -> list[Fact]:
    """A text that is too short, smallest and furthest from the source of those that passed, contract, clicks, flips."""
    named = list(zip(report["outputs"], short_names(report), strict=True))
    passed = [(o, n) for o, n in named if o["status"] == "passed"]
    of_text = [*_overlaps(report), *_of_text(report["outputs"])]
    return [*of_text, *_of_passed(passed), *_contract(named), *_clicks(named), *_choices(named)]


_Named = Sequence[tuple[Output, str]]


def _overlaps(report: Report) -> Iterable[Fact]:
    """That numbers are better than they would be on other texts."""
    if said := report.get("overlaps"):
        detail = "; ".join(visible(one) for one in said)
        yield Fact("Calibration", "on what is tested", f"{detail}: the drift is understated", "bad")


def _of_text(outputs: Sequence[Output]) -> Iterable[Fact]:
    """What nobody should decide on: numbers of a text that is too short for intervals."""
    short = [n for o in outputs if (n := o["metrics"].get("positions")) and ends(o, "kl_mean") is None]
    if short:
        detail = "too few to say how surely anything holds: measure on more"
        yield Fact("Text", plural(int(max(short)), "token"), detail, "bad")


def _of_passed(passed: _Named) -> Iterable[Fact]:
    drifted = [(kl, n) for o, n in passed if (kl := o["metrics"].get("kl_mean")) is not None]
    if passed:
        o, name = min(passed, key=lambda pair: pair[0]["size_bytes"])
        kl = o["metrics"].get("kl_mean")
        yield Fact(
            "Smallest that passed", name, size(o["size_bytes"]) + ("" if kl is None else f", KL {scientific(kl)}")
        )
    if len(drifted) > 1:
        kl, name = max(drifted)
        yield Fact("Largest drift that passed", scientific(kl), name)
    sensitive = [n for o, n in passed if any(limit["source"] == PROVEN for limit in o["limits"].values())]
    if sensitive:
        detail = "each tensor is the source's, rounded as its type rounds: the model is sensitive, the files are right"
        yield Fact("More drift than usual", ", ".join(sensitive), detail)


def _contract(named: _Named) -> Iterable[Fact]:
    checked = [(o, n) for o, n in named if o["contract"]]
    if not checked:
        return
    broken = {
        n: c["title"]
        for o, n in checked
        for c in o["contract"].values()
        if c["metric"] in o["limits"] and kept(o, c["metric"]) is False
    }
    if broken:
        yield Fact("Contract", f"{len(broken)} of {len(checked)} differ", listed(list(broken)[:3]), "bad")
    else:
        who = f" of all {len(checked)}" if len(checked) > 1 else ""
        yield Fact("Contract", "Equal", f"token ids, templates, special tokens{who}", "ok")


def _clicks(named: _Named) -> Iterable[Fact]:
    rates = [(rate, n, o) for o, n in named if (rate := o["metrics"].get("click_rate")) is not None]
    if rates:
        rate, name, output = min(rates, key=lambda entry: entry[0])
        source = output["metrics"].get("click_rate_reference")
        least = "all alike" if len({r for r, _, _ in rates}) == 1 < len(rates) else name
        said = least if source is None else f"{least}; the source hits {percent(source)} %"
        yield Fact("Fewest clicks hit", f"{percent(rate)} %", said)


def _choices(named: _Named) -> Iterable[Fact]:
    """Of those that were asked multiple-choice items, the one that flips most."""
    asked = [(e["all"], n) for o, n in named if (e := o.get("choices"))]
    if asked:
        most, name = max(asked, key=lambda pair: pair[0]["right_to_wrong"] + pair[0]["wrong_to_right"])
        lost, won = most["right_to_wrong"], most["wrong_to_right"]
        detail = f"{name}: {lost} right to wrong, {won} wrong to right; p {most['p']:.2g}"
        yield Fact("Most answers flipped", f"{lost + won} of {most['items']}", detail)
