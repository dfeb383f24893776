from __future__ import annotations

from pathlib import Path

from tests.parity.checkpoints.cohere2 import cohere2
from tests.parity.families import Case
from tests.parity.layouts import inside


def with_tower(folder: Path) -> Path:
    """Command-A Vision: the same text in a model that sees."""
    names, tower = (("model.", "language_model.model."),), "vision_tower.one.weight"
    return inside(cohere2(folder), "Cohere2VisionForConditionalGeneration", "cohere2_vision", names, tower)


NOT_UPSTREAM = "upstream's converter has no such class"

CASES = {"": Case(with_tower, equal=cohere2, no_parity=NOT_UPSTREAM)}
