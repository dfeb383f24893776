"""How types were chosen for a size: candidates, and the tensors that cost most."""

from __future__ import annotations

from collections.abc import Iterable

from validate.report import fit_words
from validate.report.markdown.text import code, folded, table, text
from validate.report.schema import Report


def fits(report: Report) -> Iterable[str]:
    """A table of candidates for each output, and one of its tensors."""
    found = fit_words.fitted(report)
    if not found:
        return
    labels = [output["label"] for output in report["outputs"]]
    yield "## Types chosen for a size"
    yield ""
    yield text(f"{fit_words.METHOD} {fit_words.GUESSED}" if fit_words.guessed(report) else fit_words.METHOD)
    yield ""
    for one in found:
        yield f"{code(labels[one.index])}, {text(one.asked)}: {text(one.facts)}."
        yield ""
        rows = [
            [text(c.why), c.predicted, f"{c.measured} ({c.interval})" if c.interval else c.measured, "kept" * c.chosen]
            for c in one.candidates
        ]
        yield from table(["Mix", "Predicted", "Measured KL", ""], "lrrl", rows)
        every = [[code(m.name), m.type, m.size, m.cost, m.share] for m in (*one.dearest, *one.others)]
        yield from folded("Tensors by cost", list(table(["Tensor", "Type", "Size", "Cost", "Share"], "llrrr", every)))
