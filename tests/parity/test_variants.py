"""No honest file is called broken: a sample of families, every variant; all of them by `make variants`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity.families import cases
from tests.parity.variants import VARIANTS, alarms

SAMPLE = ("llama", "qwen2", "gemma")
"""The two kinds of tokenizer, with and without a tokenizer.model beside."""


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", SAMPLE)
def test_an_honest_file_raises_no_alarm(family: str, variant: str, tmp_path: Path) -> None:
    assert alarms(cases()[family], variant, tmp_path) == []
