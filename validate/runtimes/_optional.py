"""Attributes that objects of transformers have in some versions and families, and not in others."""

from __future__ import annotations

from typing import Any


def optional(thing: object, name: str) -> Any:
    """An attribute of a config, a processor or a model's output; None where it has none of that name."""
    return getattr(thing, name, None)
