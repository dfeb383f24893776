"""report.json -> report.md: a module for each part of the page, in page.py's order."""

from validate.report.markdown.page import to_markdown

__all__ = ["to_markdown"]
