"""What a page has between two comments, which a command of the tests writes."""

from __future__ import annotations

from pathlib import Path


def between(text: str, begin: str, end: str) -> str:
    """The text between the comments."""
    return text.split(begin)[1].split(end, maxsplit=1)[0].strip()


def put_between(page: Path, begin: str, end: str, content: str) -> None:
    """Put `content` between the comments of a page."""
    text = page.read_text(encoding="utf-8")
    before, after = text.split(begin)[0], text.split(end)[1]
    page.write_text(f"{before}{begin}\n\n{content}\n\n{end}{after}", encoding="utf-8")
