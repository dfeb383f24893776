from __future__ import annotations

from pathlib import Path

from tests import tiny
from tests.fixtures_gguf import edit_config, edit_weights
from tests.parity.build import sharpened
from tests.parity.families import Case
from tests.parity.sentences import pooled


def embedder(folder: Path, name: str = "Qwen3ForCausalLM", tied: bool = True) -> Path:
    """As Qwen3-Embedding is published: without its head, in sentence-transformers' layout."""
    sharpened(tiny.tiny_qwen3(folder, tied=tied))
    edit_config(folder, architectures=[name])
    edit_weights(folder, lambda found: {n.removeprefix("model."): t for n, t in found.items() if n != "lm_head.weight"})
    return pooled(folder, "last")


CASES = {
    "": Case(lambda folder: sharpened(tiny.tiny_qwen3(folder))),
    "embedder": Case(embedder, writes=False),
    "base model": Case(lambda folder: embedder(folder, "Qwen3Model", tied=False), writes=False),
}
