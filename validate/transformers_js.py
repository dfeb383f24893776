"""Where transformers.js is installed: node, and a folder that npm filled.

`make web` fills .cache/web; anywhere else `npm install --ignore-scripts --prefix FOLDER @huggingface/transformers`, and
the folder is named by $TRANSFORMERS_JS. Looked for there, in .cache/web of the working folder, and of this checkout.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from validate.errors import Unsupported

NAME = "@huggingface/transformers"
VARIABLE = "TRANSFORMERS_JS"
CACHE = Path(".cache/web")
INSTALL = f"`make web`, or `npm install --ignore-scripts --prefix {CACHE} {NAME}`; ${VARIABLE} names another folder"


@dataclass(frozen=True)
class Package:
    """The folder with node_modules, and what is in it."""

    folder: Path
    version: str

    @property
    def modules(self) -> Path:
        return self.folder / "node_modules"


def find() -> Package:
    """transformers.js as it is installed here. Raises Unsupported, with what to do, where it is not."""
    named = os.environ.get(VARIABLE, "")
    folders = [Path(named)] if named else [CACHE, Path(__file__).parent.parent / CACHE]
    for folder in folders:
        if version := version_of(folder, NAME):
            return Package(folder.resolve(), version)
    where = f"{named} has no {NAME}" if named else f"{NAME} is not installed"
    raise Unsupported(f"{where}: {INSTALL}")


def node() -> Path:
    """The program that runs it outside of a browser. Raises Unsupported where there is none."""
    found = shutil.which("node")
    if found is None:
        raise Unsupported("there is no `node` on the PATH: install Node.js 20 or newer")
    return Path(found)


def version_of(folder: Path, package: str) -> str:
    """The version of an npm package that is installed in a folder; empty where it is not."""
    try:
        said = json.loads((folder / "node_modules" / package / "package.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(said.get("version", "")) if isinstance(said, dict) else ""
