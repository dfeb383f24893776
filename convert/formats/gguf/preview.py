"""What `convert inspect CHECKPOINT` asks the stages of this format."""

from __future__ import annotations

from collections.abc import Iterator

from convert.formats.base import Asked, Sample
from quantize.mixes import MIXES, wants_importance

USUAL = ("F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")


def previews(sample: Sample) -> Iterator[Asked]:
    """The usual types, or all that need no importance matrix; and the matrix."""
    yield Asked("gguf", {"types": list(plain_types() if sample.every else USUAL)})
    yield Asked("imatrix", {"text": sample.text, "window": sample.window})


def plain_types() -> tuple[str, ...]:
    """The types of GGUF files that need no importance matrix."""
    return tuple(name for name, mix in MIXES.items() if not wants_importance(mix))
