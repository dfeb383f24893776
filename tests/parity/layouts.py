"""Other writers' layouts of a tiny checkpoint: what `published` of build.py makes of transformers' own names."""

from __future__ import annotations

from tests.parity.build import Layout, Tensors


def renamed(*renames: tuple[str, str]) -> Layout:
    """The tensors with pieces of their names replaced, one after the other."""

    def layout(tensors: Tensors) -> Tensors:
        return {_replaced(name, renames): values for name, values in tensors.items()}

    return layout


def _replaced(name: str, renames: tuple[tuple[str, str], ...]) -> str:
    for old, new in renames:
        name = name.replace(old, new)
    return name
