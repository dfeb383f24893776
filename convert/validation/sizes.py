"""What a validation takes: memory of an output, disk of the reference's answers."""

from __future__ import annotations

from convert.bundle import Bundle, Role
from convert.formats.base import Output
from convert.model.engine import needed_bytes
from convert.validation.checks import config_of

QUANTIZED = ("gptq", "awq", "fp8", "compressed")  # made whole a layer at a time where not all of it fits


def memory_bytes(row: Output, source: Bundle) -> int:
    """What an output takes on its runtime: its files' bytes, or all its weights as float32."""
    from validate import memory

    size = row.weights_size + row.projector_size
    if row.weights.format in QUANTIZED:
        return needed_bytes(source, size)
    if row.widened:  # the checkpoint's weights that it shares too
        size = max(size, 4 * memory.parameters([a.path for a in source.of(Role.WEIGHTS)], vision=True))
    return size


def kept_bytes(most_tokens: int, source: Bundle) -> int:
    """What is kept of the reference's logits: float32 of every token and id, up to what they are compressed to."""
    from validate.compressed_logits import ROOM_BYTES

    config = config_of(source) or {}
    text = config.get("text_config", config)
    vocabulary = text.get("vocab_size") if isinstance(text, dict) else None
    return min(ROOM_BYTES, 4 * most_tokens * vocabulary) if isinstance(vocabulary, int) else ROOM_BYTES
