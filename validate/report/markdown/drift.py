"""Where an output drifts: parts of the text, and the worst positions. Folded: for who looks for a cause."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from validate.report.markdown.text import code, folded, table, text, token_code
from validate.report.schema import GuessEntry, Report, WorstEntry
from validate.report.sections import slice_table
from validate.report.words import chance, scientific

WORST_SHOWN = 3  # of each output; report.html and report.json have ten
LEAST = 1e-6  # nats; where the worst position has less, nothing broke
CONTEXT = 40  # characters of what was read before


def drift(report: Report) -> Iterable[str]:
    """Two tables that a click unfolds."""
    yield from folded("Where it drifts: KL of parts of the text", _slices(report))
    yield from folded("The worst positions of each output", _worst(report))


def _slices(report: Report) -> Iterable[str]:
    found = slice_table(report)
    if found is None or not found.rows:
        return
    outputs = report["outputs"]
    rows = [
        [code(outputs[i]["label"]), kl, *(f"**{c.text}**" if c.sure else c.text for c in cells)]
        for i, kl, cells in found.rows
    ]
    yield from table(["Output", "KL of all", *map(text, found.names)], "lr" + "r" * len(found.names), rows)
    groups = ", ".join(f"{count} by {title}" for title, count in found.groups)
    yield (
        f"Columns: {text(groups)}. 2× means that the mean KL of that part is twice that of all positions; bold where "
        "its 95 % interval does not hold the mean of all."
    )


def _worst(report: Report) -> Iterable[str]:
    rows = [
        [code(output["label"]), *_row(worst)]
        for output in report["outputs"]
        for worst in sorted(output["worst"], key=lambda w: -w["kl"])[:WORST_SHOWN]
        if worst["kl"] >= LEAST
    ]
    if rows:
        head = ["Output", "KL", "Set", "Text → its next token", "Source expects", "Output expects"]
        yield from table(head, "lrllll", rows)


def _row(worst: WorstEntry) -> list[str]:
    guesses = [_guesses(worst["reference"]), _guesses(worst["candidate"])]
    return [scientific(worst["kl"]), text(worst["set"]), _context(worst), *guesses]


def _context(worst: WorstEntry) -> str:
    before = worst["before"][-CONTEXT:]
    lead = "…" if len(before) < len(worst["before"]) else ""
    return f"{code(lead + before)} → {token_code(worst['next'])}"


def _guesses(guesses: Sequence[GuessEntry]) -> str:
    return ", ".join(f"{token_code(g['text'])} {chance(g['probability'])} %" for g in guesses)
