"""What llama.cpp's graphs of these families cannot compute is refused when it is planned, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convert.errors import PlanError
from tests.architectures.test_dense_families import config_of, text
from tests.fixtures_gguf import edit_weights, source_inputs, stage
from tests.parity.families import cases

YARN = {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 32, "llama_4_scaling_beta": 0.1}


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("apertus", {"tie_word_embeddings": True}, "tie_word_embeddings is true, wanted false"),
        ("apertus", {"hidden_act": "silu"}, "hidden_act is 'silu', wanted 'xielu'"),
        ("mistral3", {"rope_parameters": {"rope_theta": 1e4}}, "rope_type is 'default', wanted yarn"),
        ("mistral3", {"rope_parameters": YARN}, "mscale_all_dim is missing"),
        ("mistral3", {"rope_parameters": {**YARN, "mscale_all_dim": 1, "mscale": 2}}, "mscale is 2, wanted 1.0"),
        ("mistral3", {"attention_bias": True}, "attention_bias is true, wanted false"),
    ],
)
def test_what_a_graph_cannot_compute_is_refused(
    case: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = config_of(case, tmp_path)
    assert text(config)
    with pytest.raises(PlanError) as caught:
        text({**config, **changes})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [("lost", "lacks model.layers.1.mlp.act_fn.beta"), ("long", "beta F32 [2], wanted one floating-point number each")],
)
def test_numbers_of_an_activation_that_are_lost_or_many_are_refused(change: str, message: str, tmp_path: Path) -> None:
    import torch

    folder = cases()["apertus"].make(tmp_path / "tiny")

    def spoil(tensors: dict[str, Any]) -> None:
        lost = tensors.pop("model.layers.1.mlp.act_fn.beta")
        if change == "long":
            tensors["model.layers.1.mlp.act_fn.beta"] = torch.stack([lost, lost]).float()

    edit_weights(folder, spoil)
    (problem,) = stage.check(stage.Options(types=["F32"]), source_inputs(folder))
    assert message in str(problem)
