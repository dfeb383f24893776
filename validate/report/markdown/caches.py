"""What the types of the key-value cache cost, and save."""

from __future__ import annotations

from collections.abc import Iterable

from validate.report import cache_words
from validate.report.markdown.standing import ROWS_SHOWN
from validate.report.markdown.text import code, folded, table, text
from validate.report.schema import Report


def caches(report: Report) -> Iterable[str]:
    """A row for each pair of types of each output that was measured with them."""
    found = cache_words.caches(report)
    if found is None:
        return
    labels = [output["label"] for output in report["outputs"]]
    yield "## Key-value cache"
    yield ""
    facts = [f"Facts in {length}" for length in found.lengths]
    head = ["Output", "K", "V", "1k tokens", found.limit, "KL", "Same top token, %", *facts]
    rows = [_row(row, labels[row.index]) for row in found.rows]
    whole = list(table(head, "lllrrrr" + "r" * len(facts), rows))
    yield from whole if len(rows) <= ROWS_SHOWN else folded("Cache types of each output", whole)
    yield text(f"{cache_words.METHOD} {cache_words.FACTS}" if found.lengths else cache_words.METHOD)
    yield ""
    yield from (f"- {code(labels[index])}: {text(said)}" for index, said in found.notes)
    if found.notes:
        yield ""


def _row(row: cache_words.CacheRow, label: str) -> list[str]:
    kl = f"{row.kl} ({row.interval})" if row.interval else row.kl
    return [code(label), code(row.k), code(row.v), row.per_1k, row.at_limit, kl, row.top1, *row.found]
