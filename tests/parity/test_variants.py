"""No honest file is called broken: a sample of families, every variant; all of them by `make variants`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity.families import cases
from tests.parity.variants import VARIANTS, alarms, made

SAMPLE = {
    "llama": tuple(VARIANTS),  # sentencepiece, a tokenizer.model beside it
    "qwen2": ("base", "list of ends", "added tokens"),  # byte-level
    "gemma": ("instruct", "added tokens"),
    "gemma3_vision": ("instruct",),  # images, whose placeholders are added tokens
    "llava": ("list of ends",),  # and two of which llama.cpp sees them by rules of its own
    "internvl": ("base",),
}


@pytest.mark.parametrize(("family", "variant"), [(f, v) for f, variants in SAMPLE.items() for v in variants])
def test_an_honest_file_raises_no_alarm(family: str, variant: str, tmp_path: Path) -> None:
    assert alarms(made(cases()[family], variant, tmp_path), tmp_path) == []
