"""Which checkpoints ONNX graphs can be made of."""

from __future__ import annotations

from convert.formats.base import Support
from convert.formats.onnx import families
from convert.source.checkpoint import Checkpoint


def supports(checkpoint: Checkpoint) -> Support:
    """Yes for text decoders, and for models that see where their graphs are known."""
    config = checkpoint.config
    if "vision_config" in config and config.get("model_type") not in families.names():
        return Support((f"model_type {config.get('model_type')}: no vision graph is known for it",))
    return Support()
