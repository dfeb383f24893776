from __future__ import annotations

from pathlib import Path

from tests import tiny
from tests.fixtures_gguf import edit_config, edit_weights
from tests.parity.build import sharpened
from tests.parity.families import Case
from tests.parity.sentences import pooled


def embedder(folder: Path) -> Path:
    """The base model alone, whose embedding is that of the last token."""
    sharpened(tiny.tiny_qwen2(folder, tied=False))
    edit_config(folder, architectures=["Qwen2Model"])
    edit_weights(folder, lambda found: {n.removeprefix("model."): t for n, t in found.items() if n != "lm_head.weight"})
    return pooled(folder, "last")


CASES = {
    "": Case(lambda folder: sharpened(tiny.tiny_qwen2(folder))),
    "base model": Case(embedder, writes=False),
    "tied": Case(lambda folder: sharpened(tiny.tiny_qwen2(folder, tied=True))),
}
