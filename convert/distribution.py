"""Which release this is, and which runtimes are beside it. A leaf."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator

from validate.distribution import NAME, install_command

__all__ = ["NAME", "RELEASE", "install_command", "version", "version_lines"]

RELEASE = "0.1.0"
"""The release these sources are of, or follow. It is what keys and graphs say, so that two commits which convert alike,
and a clone that was never installed, make the same bytes. Raised together with `fallback_version` and the tag."""


def version() -> str:
    """The installed version, commit included where it is no release; "0.1.0+unknown" where nothing is installed."""
    try:
        return importlib.metadata.version(NAME)
    except importlib.metadata.PackageNotFoundError:
        return f"{RELEASE}+unknown"


def version_lines() -> Iterator[str]:
    """This version, then that of every runtime `validate` knows, or why it cannot run and what installs it."""
    from validate import runtimes

    yield f"{NAME} {version()}, Python {platform.python_version()}"
    modules = [runtimes.load(name) for name in runtimes.names()]
    width = max(len(module.NAME) for module in modules)
    for module in modules:
        yield f"  {module.NAME:<{width}}  {module.available() or module.version()}"
