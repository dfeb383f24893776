"""What became of an encoder's embeddings or scores, and why there is no KL."""

from __future__ import annotations

from collections.abc import Iterable

from validate.embeddings import INSTEAD
from validate.report.markdown.text import code, plain, table, text
from validate.report.schema import EmbeddingEntry, Report
from validate.report.words import percent


def embeddings(report: Report) -> Iterable[str]:
    """A row for each output that was asked; nothing where the model writes text."""
    found = [(o["label"], entry) for o in report["outputs"] if (entry := o.get("embeddings"))]
    if not found:
        return
    gives = found[0][1]["gives"]
    yield f"## {gives.capitalize()}"
    yield ""
    yield f"{INSTEAD[gives]}."
    yield ""
    yield from table(_HEADS[gives], "lrrrrrl", [[code(label), *_row(entry)] for label, entry in found])
    yield (
        "Pairs in order: of two texts that the source tells apart, by the cosine to a third or by their score, the "
        "share that stands in the same order."
    )
    yield ""


_HEADS = {
    "embeddings": ["Output", "Texts", "Cosine, least", "Cosine, mean", "Pairs in order, %", "Pairs", "Changed most"],
    "scores": ["Output", "Texts", "Error", "Largest change", "Pairs in order, %", "Pairs", "Changed most"],
}


def _row(entry: EmbeddingEntry) -> list[str]:
    numbers = (entry["cosine_min"], entry["cosine_mean"]) if entry["gives"] == "embeddings" else _of_scores(entry)
    agreement = entry["agreement"]
    shown = [plain(number, ".6f") for number in numbers]
    order = "" if agreement is None else percent(agreement, 2)
    return [str(entry["texts"]), *shown, order, str(entry["pairs"]), text(entry["worst"][:60])]


def _of_scores(entry: EmbeddingEntry) -> tuple[float | None, float | None]:
    return entry["error"], entry["largest"]
