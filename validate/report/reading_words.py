"""With `tokens: auto`, how far outputs read and why no further, as sentences of a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from validate.report.schema import Report
from validate.report.words import count, plural


def reading(report: Report) -> Iterator[str]:
    """Sentences without their full stop; none where all outputs read the whole text."""
    found = [(output["label"], read) for output in report["outputs"] if (read := output.get("reading"))]
    decided = Counter(read["tokens"] for _, read in found if read["decided"])
    if decided:
        steps = ", ".join(f"{plural(many, 'output')} after {count(tokens)}" for tokens, many in sorted(decided.items()))
        yield f"Of it each output read as many tokens as decide all its limits: {steps}"
    for label, read in found:
        if not read["decided"]:
            yield f"{label}: {read['reason']}"
