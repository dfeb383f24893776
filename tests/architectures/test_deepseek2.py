"""DeepSeek's attention, YaRN and choice of experts: what llama.cpp's graph cannot compute is refused, or noted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convert.architectures import deepseek2
from convert.errors import PlanError
from tests.parity.families import cases

CASES = cases()
YARN = {"type": "yarn", "factor": 8, "original_max_position_embeddings": 64}
LIMITED = {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2}


def config_of(variant: str, folder: Path) -> dict[str, Any]:
    return dict(json.loads((CASES[f"deepseek2, {variant}"].make(folder) / "config.json").read_text()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 27}, "q_lora_rank is 40, wanted null; llama.cpp knows none with 27 layers"),
        ({"rope_scaling": YARN}, "mscale_all_dim is missing"),
        ({"rope_scaling": {**YARN, "mscale_all_dim": 1.0}}, "mscale is null, wanted 1"),
        ({"rope_scaling": {**YARN, "mscale_all_dim": 1.0, "mscale": 0.707}}, "mscale is 0.707, wanted 1.0"),
        ({"rope_interleave": False}, "rope_interleave is false, wanted true"),
        ({"scoring_func": "softmax"}, "scoring_func is 'softmax', wanted sigmoid"),
        ({"topk_method": "greedy"}, "topk_method is 'greedy', wanted 'noaux_tc'"),
        ({"num_key_value_heads": 2}, "num_key_value_heads is 2, wanted 4"),
        ({"first_k_dense_replace": 4}, "first_k_dense_replace is 4, wanted a whole number from 0 to 3"),
        ({"n_group": 5}, "n_group is 5, wanted a divisor of n_routed_experts, 12"),
        ({"n_group": 12}, "n_group is 12"),
        ({"attention_bias": True}, "attention_bias is true, wanted false"),
    ],
)
def test_what_the_graph_cannot_do_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = config_of("V3", tmp_path)
    with pytest.raises(PlanError) as caught:
        deepseek2.text({**config, **changes})
    assert message in str(caught.value)


def test_groups_rated_by_their_best_expert_are_noted(tmp_path: Path) -> None:
    config = config_of("V2-Lite", tmp_path)
    assert not deepseek2.text(config).notes
    limited = deepseek2.text({**config, **LIMITED})
    assert "sum of its two best" in limited.notes[0]
    assert "deepseek2.expert_group_used_count" in {f.key for f in limited.fields}
    every_group = deepseek2.text({**config, **LIMITED, "topk_group": 4})  # llama.cpp loads no such limit
    assert not every_group.notes
    assert "deepseek2.expert_group_count" not in {f.key for f in every_group.fields}


def test_another_epsilon_is_noted(tmp_path: Path) -> None:
    config = config_of("V3", tmp_path)
    (note,) = deepseek2.text({**config, "rms_norm_eps": 1e-5}).notes
    assert "norms of latent vectors have 1e-06" in note


def test_layers_that_predict_further_ahead_are_left_out(tmp_path: Path) -> None:
    part = deepseek2.text(config_of("V3", tmp_path))
    names = [f"model.layers.{i}.eh_proj.weight" for i in range(5)]
    assert [name for name in names if any(left.covers(name) for left in part.left_out)] == [names[3]]
