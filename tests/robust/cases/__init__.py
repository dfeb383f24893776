"""Every hostile input there is, a module a kind: each has CASES."""

from __future__ import annotations

import importlib
import pkgutil

from tests.robust.cases.base import Case


def every() -> list[Case]:
    """All cases, in the order of the modules' names."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")
    found = [case for name in names for case in importlib.import_module(f"{__name__}.{name}").CASES]
    titles = [case.title for case in found]
    assert len(set(titles)) == len(titles), sorted(title for title in titles if titles.count(title) > 1)
    return found
