"""What `convert inspect CHECKPOINT` asks the stages of this format."""

from __future__ import annotations

from collections.abc import Iterator

from convert.formats.base import Asked, Sample
from quantize.blocks import TYPES
from quantize.mixes import MIXES, Tensor, needs_imatrix

USUAL = ("F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")


def previews(sample: Sample) -> Iterator[Asked]:
    """The usual types, or all that need no importance matrix; and the matrix."""
    yield Asked("gguf", {"types": list(plain_types() if sample.every else USUAL)})
    yield Asked("imatrix", {"text": sample.text, "window": sample.window})


def plain_types() -> tuple[str, ...]:
    """The types of GGUF files that need no importance matrix."""
    matrix = Tensor("blk.0.attn_q.weight", (256, 256))
    return tuple(name for name, mix in MIXES.items() if not needs_imatrix(mix, matrix, TYPES[mix.main]))
