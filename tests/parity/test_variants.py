"""No honest file is called broken: a sample of families, every variant; all of them by `make variants`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity.families import cases
from tests.parity.variants import VARIANTS, alarms, made

SAMPLE = ("llama", "qwen2", "gemma")
"""The two kinds of tokenizer, with and without a tokenizer.model beside."""

SEEING = [("gemma3_vision", "instruct"), ("llava", "list of ends"), ("internvl", "base")]
"""Images: whose placeholders are added tokens, and two that llama.cpp sees by rules of its own."""


@pytest.mark.parametrize(("family", "variant"), [*((f, v) for f in SAMPLE for v in VARIANTS), *SEEING])
def test_an_honest_file_raises_no_alarm(family: str, variant: str, tmp_path: Path) -> None:
    assert alarms(made(cases()[family], variant, tmp_path), tmp_path) == []
