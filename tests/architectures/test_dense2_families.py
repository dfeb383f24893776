"""What llama.cpp's graphs of these families cannot compute is refused when it is planned, with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convert import architectures
from convert.errors import PlanError
from tests.parity.families import cases

CASES = cases()


def config_of(name: str, folder: Path) -> dict[str, Any]:
    return dict(json.loads((CASES[name].make(folder) / "config.json").read_text()))


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("gemma3n", {"laurel_rank": 32}, "laurel_rank is 32, wanted 64"),
        ("gemma3n", {"num_kv_shared_layers": 3}, "num_kv_shared_layers is 3, wanted 2"),
        (
            "gemma3n",
            {"layer_types": ["full_attention"] * 22},
            "sliding_attention and full_attention in layers 18 and 19",
        ),
        ("gemma3n", {"activation_sparsity_pattern": [0.5] * 22}, "0.95 in the first 10 layers"),
        ("gemma3n", {"intermediate_size": [64, *[128] * 21]}, "one number for all layers"),
        (
            "gemma3n",
            {"vocab_size_per_layer_input": 400},
            "vocab_size_per_layer_input is 400, wanted at most vocab_size",
        ),
        ("gemma4", {"use_bidirectional_attention": "all"}, "llama.cpp's text looks back only"),
        ("gemma4", {"num_kv_shared_layers": 3}, "a layer of each kind in front of those that share"),
        ("gemma4", {"global_head_dim": 47}, "global_head_dim is 47, wanted an even number"),
        ("gemma4", {"attention_k_eq_v": True, "num_global_key_value_heads": 3}, "num_global_key_value_heads is 3"),
        (
            "gemma4",
            {"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 2.0}}},
            "rope_type is 'yarn', wanted 'proportional' or 'default'",
        ),
    ],
)
def test_what_the_graphs_cannot_compute_is_refused(
    case: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = config_of(case, tmp_path) | changes
    with pytest.raises(PlanError) as error:
        architectures.find(config).text(config)
    assert message in str(error.value)


def test_the_text_of_a_model_with_towers_is_that_of_the_model_without(tmp_path: Path) -> None:
    alone = config_of("gemma3n", tmp_path)
    inside = {"architectures": ["Gemma3nForConditionalGeneration"], "model_type": "gemma3n", "text_config": alone}
    specs = [architectures.find(config).text(config) for config in (alone, inside)]
    assert [t.source for t in specs[0].tensors] == [t.source for t in specs[1].tensors]
    assert [f.encoded for f in specs[0].fields] == [f.encoded for f in specs[1].fields]
    assert architectures.find(inside).own_name("model.language_model.norm.weight") == "model.norm.weight"
