"""What there is one file each of (runtimes, measures): the files of a folder, and what other packages bring.

A file is known by its name, an entry point by the name it is registered with; both lead to an object of a module, which
is imported when the object is asked for. Listing the names imports nothing.

    [project.entry-points."convert.runtimes"]
    mlx = "my_package.mlx_runtime:RUNTIME"
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Iterable
from operator import attrgetter


def references(package: str, paths: Iterable[str], attribute: str, group: str) -> dict[str, str]:
    """Name -> "module:attribute" of everything of a kind, in the order of the names; of two of a name, ours.

    `paths` is the package's `__path__`. A file whose name starts with an underscore is not one, nor is `base`.
    """
    found = {point.name: point.value for point in importlib.metadata.entry_points(group=group)}
    names = [m.name for m in pkgutil.iter_modules(list(paths)) if not m.name.startswith("_") and m.name != "base"]
    found |= {name: f"{package}.{name}:{attribute}" for name in names}
    return dict(sorted(found.items()))


def load(reference: str) -> object:
    """The object that "package.module:attribute" leads to."""
    module, _, attribute = reference.partition(":")
    return attrgetter(attribute)(importlib.import_module(module))
