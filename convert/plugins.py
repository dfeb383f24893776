"""Things of one kind that are found, not listed: a module or package of a folder of ours, or an entry point of another
distribution. Listing imports none of them. A leaf.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import pkgutil
from collections.abc import Mapping
from typing import cast

from convert.errors import ConvertError, Problem


@functools.cache
def found(folder: str, attribute: str, group: str, *, packages: bool) -> Mapping[str, str]:
    """Name -> `module:attribute` of all there are, by name: ours, then those of entry-point group `group`.

    `folder` is a package of ours; what lies in it counts where it is a package (`packages`), or else a module, and its
    name does not start with an underscore. Ours win where two have one name.
    """
    ours = {
        module.name: f"{folder}.{module.name}:{attribute}"
        for module in pkgutil.iter_modules(importlib.import_module(folder).__path__)
        if module.ispkg == packages and not module.name.startswith("_")
    }
    others = {point.name: point.value for point in importlib.metadata.entry_points(group=group)}
    return dict(sorted({**others, **ours}.items()))


def load(reference: str) -> object:
    """What `module:attribute` names. Raises ConvertError, with its name, where another package brings nothing there."""
    module, _, attribute = reference.partition(":")
    try:
        names = vars(importlib.import_module(module))
        if attribute not in names:
            raise AttributeError(f"module '{module}' has no attribute '{attribute}'")
        return cast(object, names[attribute])
    except (ImportError, AttributeError) as error:
        if not (package := _package(module)):
            raise
        remedy = f"correct it, or `pip uninstall {package}`"
        problem = Problem(f"package {package}", f"{reference} does not load: {error}", remedy=remedy)
        raise ConvertError(problem) from error


def _package(module: str) -> str:
    """The distribution whose entry points lead to `module` or beside it; empty for one of ours."""
    root = module.partition(".")[0]
    for package in importlib.metadata.distributions():
        points = (point for point in package.entry_points if point.group.startswith("convert."))
        if any(point.module.partition(".")[0] == root for point in points):
            return package.name
    return ""
