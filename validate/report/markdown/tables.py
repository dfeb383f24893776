"""The tables of report.md that have a row for each output."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from validate.metrics import DEFINITIONS
from validate.report import columns, verdicts
from validate.report.markdown.text import code, folded, plain, table, text
from validate.report.markdown.verdict import WORDS
from validate.report.marks import looks
from validate.report.schema import Output, Report
from validate.report.standing_words import above_floor
from validate.report.words import NOTHING, percent, scientific

_RANGES = ("metrics.kl_mean", "metrics.ppl_ratio")  # shown with their interval
_INDICATIVE = "indicative"  # what columns.py says of speed
_STAR = r" \*"


def outputs(report: Report) -> Iterable[str]:
    """The table that most readers come for."""
    shown = columns.columns(report)
    yield "## Outputs"
    yield ""
    heads = [f"{c.heading}{f', {c.unit}' if c.unit else ''}{_STAR if c.meaning == _INDICATIVE else ''}" for c in shown]
    rows = [
        [code(o["label"]), WORDS[o["status"]], *(_cell(cell) for cell in columns.cells(o, shown))]
        for o in report["outputs"]
    ]
    yield from table(["Output", "Verdict", *heads], "ll" + "r" * len(shown), rows)
    yield from _legend(report, any(c.meaning == _INDICATIVE for c in shown))
    yield from folded("More numbers of each output", _more(report))


def _cell(cell: columns.Cell) -> str:
    ranged = cell.below and cell.column.path in _RANGES
    return f"{cell.text} ({cell.below})" if ranged else cell.text


def _legend(report: Report, speed: bool) -> Iterable[str]:
    said = []
    source = next((p for o in report["outputs"] if (p := o["metrics"].get("ppl_reference")) is not None), None)
    if source is not None:
        said.append(f"The source's own perplexity is {source:.4g}.")
    if any(o["intervals"] for o in report["outputs"]):
        said.append("In brackets: 95 % confidence intervals, from resampled blocks of text.")
    said.append("Bits per weight are of the whole file.")
    if speed:
        said.append(r"\* indicative: measured once beside other work, in the same way for all.")
    said += [note for applies, note in _NOTES if any(map(applies, report["outputs"]))]
    present = {o["format"] for o in report["outputs"]}
    said += [text(look.note) for name, look in looks(report).items() if look.note and name in present]
    yield " ".join(said)
    yield ""


_NOTES: tuple[tuple[Callable[[Output], bool], str], ...] = (
    (
        lambda o: o["type"] == "fp32" and (o["bits_per_weight"] or 32) < 24,
        "A graph of fp32 with 16 bits per weight reads the checkpoint's own file, and widens it to compute.",
    ),
    (
        lambda o: o["runtime"].startswith("OpenVINO") and o["type"] in ("fp16", "bf16"),
        "OpenVINO computes in float32 here whatever a graph's type is, so that its fp16 and fp32 are as near.",
    ),
)


def _metric(name: str, show: Callable[[float], str]) -> Callable[[Output], str]:
    def cell(output: Output) -> str:
        value = output["metrics"].get(name)
        return NOTHING if value is None else show(value)

    return cell


def _percent(value: float) -> str:
    return f"{percent(value, 2)} %"


def _greedy(output: Output) -> str:
    greedy = output["greedy"]
    return NOTHING if greedy is None else f"{greedy['equal']} of {greedy['tokens']}"


def _load(output: Output) -> str:
    return plain(output["speed"] and output["speed"]["load_seconds"], ".1f")


_MORE: tuple[tuple[str, Callable[[Output], str]], ...] = (
    ("Of the noise floor", lambda output: above_floor(output) or NOTHING),
    ("KL median", _metric("kl_median", scientific)),
    ("KL p99", _metric("kl_p99", scientific)),
    ("KL max", _metric("kl_max", scientific)),
    ("Same top five, %", _metric("top5", lambda share: percent(share, 2))),
    ("Change of p, RMS", _metric("p_rms", _percent)),
    ("Change of p, p99", _metric("p_p99", _percent)),
    ("One by one", _metric("decode_max_abs", scientific)),
    ("Same greedy text", _greedy),
    (f"Load, s{_STAR}", _load),
)


def _more(report: Report) -> Iterable[str]:
    rows = [o for o in report["outputs"] if o["metrics"]]
    shown = [(head, cell) for head, cell in _MORE if any(cell(o) != NOTHING for o in rows)]
    if not shown:
        return
    cells = [[code(o["label"]), *(cell(o) for _, cell in shown)] for o in rows]
    yield from table(["Output", *(head for head, _ in shown)], "l" + "r" * len(shown), cells)
    yield (
        "Change of p: of the probability of the text's own next token. One by one: the largest difference of a logit "
        "when tokens are fed one at a time instead of at once. Same greedy text: tokens that both write alike, left "
        "alone after the first ones of a text."
    )


# ---- limits


def limits(report: Report) -> Iterable[str]:
    """Limits that were broken or nearly so; those of the recipe that were kept unfold, defaults are one sentence."""
    loud: list[list[str]] = []
    quiet: list[list[str]] = []
    defaults = dict[str, None]()
    for output in (o for o in report["outputs"] if o["status"] != "not_run"):
        for gate in verdicts.gates(output):
            if gate.state == "kept" and gate.source == "default":
                defaults[gate.metric] = None  # a default catches a broken file: kept, it says nothing of a good one
                continue
            state = {"broken": "**broken**", "unknown": "**not measured**"}.get(gate.state, "kept")
            limit = text(f"{gate.better} {gate.limit}")
            row = [code(output["label"]), code(gate.metric), gate.value, limit, text(gate.source), state]
            (quiet if gate.state == "kept" else loud).append([*row, text(gate.certainty)])
    if not (loud or quiet or defaults):
        return
    yield "## Limits"
    yield ""
    head = ["Output", "Metric", "Value", "Limit", "From", "", "How surely"]
    if loud:
        yield from table(head, "llrllll", loud)
    yield from folded(
        f"{len(quiet)} more, all kept", table(head[:-1], "llrlll", [row[:-1] for row in quiet]) if quiet else []
    )
    if defaults:
        names = ", ".join(f"`{name}`" for name in sorted(defaults))
        yield f"Kept, and not listed: default limits of {names}. report.json has each with its value."
        yield ""
    yield from _meanings([row[1].strip("`") for row in loud])


def _meanings(names: Iterable[str]) -> Iterable[str]:
    asked = set(names)
    named = [name for name in DEFINITIONS if name in asked]
    yield from (f"- `{name}`: {text(DEFINITIONS[name].meaning)}" for name in named)
    if named:
        yield ""
