from __future__ import annotations

from pathlib import Path

from tests.parity.checkpoints.exaone4 import exaone4
from tests.parity.families import Case
from tests.parity.layouts import inside


def with_tower(folder: Path) -> Path:
    """EXAONE 4.5: the same text in a model that sees."""
    names, tower = (("model.", "model.language_model."),), "model.visual.one.weight"
    return inside(exaone4(folder), "Exaone4_5_ForConditionalGeneration", "exaone4_5", names, tower)


CASES = {"": Case(with_tower, equal=exaone4)}
