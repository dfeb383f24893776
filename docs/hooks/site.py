"""What mkdocs is told beside mkdocs.yml: the reference is generated while the site is built, and three pages of the
repository's root are pages of the site too.

The pages are made of the code as it is imported, so they cannot say otherwise than it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from docs.hooks import commands, python_api, schemas

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[2]
GENERATED: Mapping[str, Callable[[], str]] = {
    "reference/commands.md": commands.page,
    "reference/recipe.md": schemas.recipe_page,
    "reference/report.md": schemas.report_page,
    "reference/python.md": python_api.page,
}
OF_THE_ROOT: Mapping[str, str] = {"ARCHITECTURE.md": "architecture.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The site's files, the generated ones among them."""
    from mkdocs.structure.files import File

    for path, page in GENERATED.items():
        files.append(File.generated(config, path, content=page()))
    for name, path in OF_THE_ROOT.items():
        text = relinked((ROOT / name).read_text(encoding="utf-8"), "", path)
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: object, config: MkDocsConfig, files: Files) -> str:
    """The page with its links to pages of the root as links within the site."""
    path = page.file.src_uri  # type: ignore[attr-defined]
    return markdown if path in OF_THE_ROOT.values() else relinked(markdown, posixpath.dirname(f"docs/{path}"), path)


def relinked(markdown: str, folder: str, path: str) -> str:
    """`markdown`, of a file in `folder` of the repository, as the page `path` of the site."""

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        there = OF_THE_ROOT.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else "")
        if not there:
            return match[0]
        return f"]({posixpath.relpath(there, posixpath.dirname(path) or '.')}{match[2] or ''})"

    return LINK.sub(link, markdown)
