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
    """What `module:attribute` names. Raises ImportError where there is no such module, AttributeError no such name."""
    module, _, attribute = reference.partition(":")
    return cast(object, vars(importlib.import_module(module))[attribute])
