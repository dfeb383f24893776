"""gpt-oss: YaRN that llama.cpp rounds is noted; what its graph and its blocks cannot do is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convert.architectures import gpt_oss
from convert.errors import PlanError
from tests.parity.families import cases

CASES = cases()


def config_of(name: str, folder: Path) -> dict[str, Any]:
    return dict(json.loads((CASES[name].make(folder) / "config.json").read_text()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"intermediate_size": 100}, "intermediate_size is 100, wanted a multiple of 32"),
        ({"swiglu_limit": 5.0}, "swiglu_limit is 5.0, wanted 7.0"),
        ({"attention_bias": False}, "attention_bias is false, wanted true"),
        ({"layer_types": ["full_attention"]}, "layer_types is ['full_attention']"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is true, wanted false"),
    ],
)
def test_what_cannot_be_carried_or_computed_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = config_of("gpt_oss", tmp_path)
    with pytest.raises(PlanError) as caught:
        gpt_oss.text({**config, **changes})
    assert message in str(caught.value)


def test_a_range_of_frequencies_that_is_not_rounded_is_noted(tmp_path: Path) -> None:
    config = config_of("gpt_oss", tmp_path)
    (note,) = gpt_oss.text(config).notes
    assert "rounds it outwards" in note
    assert not gpt_oss.text({**config, "rope_scaling": {**config["rope_scaling"], "truncate": True}}).notes
