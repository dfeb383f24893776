"""report.json -> report.md: the verdict first, then what it rests on. It fits a pull request or a model card."""

from __future__ import annotations

from validate.report.markdown.caches import caches
from validate.report.markdown.contract import contract, vision
from validate.report.markdown.drift import drift
from validate.report.markdown.embeddings import embeddings
from validate.report.markdown.fits import fits
from validate.report.markdown.method import method
from validate.report.markdown.standing import answers, ranking
from validate.report.markdown.tables import limits, outputs
from validate.report.markdown.verdict import verdict
from validate.report.schema import Report

_PARTS = (verdict, outputs, limits, ranking, answers, caches, fits, embeddings, drift, contract, vision, method)


def to_markdown(report: Report) -> str:
    """The report as a page of GitHub-flavoured Markdown."""
    lines = [line for part in _PARTS for line in part(report)]
    page = "\n".join(lines).rstrip() + "\n"
    return page.encode("utf-8", errors="backslashreplace").decode()
