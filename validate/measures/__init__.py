"""One file per measure: what is asked of every candidate and compared with the reference's answer.

A measure is a file of this folder with a subclass of `base.Measure` called MEASURE (a name that starts with an
underscore is not one), or the like in another package, under the entry-point group `convert.measures`. compare.py makes
them all, kind by kind, and within one by rising PLACE.
"""

from __future__ import annotations

from validate import plugins
from validate.measures.base import Measure

__all__ = ["ENTRY_POINTS", "load", "names", "ordered"]

ENTRY_POINTS = "convert.measures"  # the group under which other packages bring theirs


def names() -> list[str]:
    """Every measure there is; nothing is imported for it."""
    return list(_references())


def load(name: str) -> type[Measure]:
    """The measure called `name`. Raises KeyError where there is none, TypeError for what is called one and is none."""
    reference = _references()[name]
    found = plugins.load(reference)
    if not (isinstance(found, type) and issubclass(found, Measure)):
        raise TypeError(f"the measure '{name}' is {reference}, {found!r}; wanted a subclass of Measure")
    return found


def ordered() -> list[type[Measure]]:
    """Every measure, in the order in which those of a kind are made."""
    return sorted(map(load, names()), key=lambda measure: measure.PLACE)


def _references() -> dict[str, str]:
    return plugins.references(__name__, __path__, "MEASURE", ENTRY_POINTS)
