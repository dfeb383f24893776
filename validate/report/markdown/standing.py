"""Which output drifts less than which, how far above the runtime's own noise, and which answers changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from validate.report import standing_words
from validate.report.markdown.text import code, folded, table, text
from validate.report.schema import Report
from validate.report.words import NOTHING

ROWS_SHOWN = 16  # of a table that is not folded
PAIRS_SHOWN = 6
CHANGES_SHOWN = 5  # of each output; report.html and report.json have ten


def ranking(report: Report) -> Iterable[str]:
    """Groups of outputs by mean KL, and pairs of about the same size."""
    found, floors = standing_words.standings(report), standing_words.floors(report)
    if found is None and not floors:
        return
    yield "## Ranking"
    yield ""
    if found is not None:
        line = "; ".join(f"{p.number}. {', '.join(code(name) for _, name in p.outputs)}" for p in found.places)
        yield f"By mean KL, on the same resampled texts pair by pair, the least first: {line}."
        yield ""
    lines = [*(found.same_size[:PAIRS_SHOWN] if found is not None else ()), *floors]
    yield from (f"- {text(said)}" for said in lines)
    if lines:
        yield ""
    if found is not None:
        yield from folded("How far each place is ahead of the next, and more pairs", _details(found))


def _details(found: standing_words.Standings) -> Iterable[str]:
    rows = [
        [str(p.number), ", ".join(code(name) for _, name in p.outputs), p.kl, p.ahead or NOTHING] for p in found.places
    ]
    yield from table(["Place", "Outputs", "KL", "Less than the next"], "rlrl", rows)
    yield "With 95 % intervals. Outputs of one place cannot be told from its first on these texts."
    yield ""
    yield from (f"- {text(said)}" for said in found.same_size[PAIRS_SHOWN:])
    if found.more:
        yield f"- {found.more} more pairs are in report.json"


def answers(report: Report) -> Iterable[str]:
    """A row for each output that was asked multiple-choice items."""
    found = standing_words.answers(report)
    if not found:
        return
    labels = [output["label"] for output in report["outputs"]]
    yield "## Answers to multiple-choice items"
    yield ""
    whole = list(table(_HEAD, "lrrrrrrrr", [_answers(row, labels) for row in found if row.first]))
    yield from whole if len(whole) <= ROWS_SHOWN else folded("Answers of each output", whole)
    yield (
        "Right: the right choice has the largest sum of log-probabilities (acc of lm-eval); by length: that sum over "
        "the choice's characters, and the source's (acc_norm). p: exact McNemar test, how often chance alone splits "
        "the flips as unevenly."
    )
    yield ""
    sets = [_answers(row, labels) for row in found if not row.first]
    yield from folded("Answers by set of items", table(_HEAD, "lrrrrrrrr", sets) if sets else [])
    yield from folded("Answers that changed", _changes(report, labels))


_HEAD = ("Output", "Items", "Right", "Source", "Right → wrong", "Wrong → right", "Wrong → wrong", "p", "By length")


def _answers(row: standing_words.Answers, labels: Sequence[str]) -> list[str]:
    return [
        code(labels[row.index]) + ("" if row.first else f" {text(row.set)}"),
        str(row.items),
        f"{row.right} %" + (f" ({row.interval})" if row.interval else ""),
        f"{row.reference} %",
        str(row.lost),
        str(row.won),
        str(row.astray),
        row.p,
        row.normalized or NOTHING,
    ]


def _changes(report: Report, labels: Sequence[str]) -> Iterable[str]:
    shown: dict[int, int] = {}
    rows = []
    for index, change in standing_words.changes(report):
        shown[index] = shown.get(index, 0) + 1
        if shown[index] <= CHANGES_SHOWN:
            words = [change["shown"], change["right"], change["reference"], change["candidate"]]
            rows.append([code(labels[index]), text(change["set"]), *(code(word.strip()) for word in words)])
    if rows:
        yield from table(["Output", "Set", "Item", "Right", "Source", "Output"], "llllll", rows)
