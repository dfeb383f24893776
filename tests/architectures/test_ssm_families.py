"""What llama.cpp's graphs of models that keep a state cannot compute is refused when it is planned, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert import architectures
from convert.architectures._state_space import exact_exp
from convert.errors import PlanError
from tests.parity.families import config_of


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("qwen3_next", {"norm_topk_prob": False}, "norm_topk_prob is false, wanted true"),
        ("qwen3_next", {"mlp_only_layers": [0]}, "mlp_only_layers is [0]"),
        ("qwen3_next", {"linear_value_head_dim": 32}, "linear_value_head_dim is 32, wanted 16"),
        ("qwen3_next", {"linear_num_value_heads": 3}, "wanted a multiple of linear_num_key_heads, 2"),
        ("qwen3_next", {"attention_bias": True}, "attention_bias is true"),
        ("qwen3_5", {"layer_types": ["linear_attention"]}, "layer_types is ['linear_attention'], wanted a list of 2"),
        ("lfm2", {"conv_bias": True}, "conv_bias is true, wanted false"),
        ("lfm2_moe", {"use_expert_bias": False}, "use_expert_bias is false, wanted true"),
        ("lfm2_moe", {"layer_types": None}, "layer_types is null, wanted 3 of conv and full_attention"),
        ("granite_hybrid", {"mamba_expand": 4, "mamba_d_head": 32}, "mamba_expand is 4, wanted 2"),
        ("granite_hybrid", {"position_embedding_type": "rope"}, "position_embedding_type is 'rope', wanted nope"),
        ("granite_hybrid", {"mamba_d_head": 8}, "mamba_d_head is 8, wanted 16"),
        ("granite_hybrid", {"mamba_n_heads": 7}, "mamba_n_heads is 7, wanted a divisor of 128"),
        ("granite_hybrid", {"time_step_limit": [0.001, 0.1]}, "time_step_limit is [0.001, 0.1]"),
        ("granite_hybrid, dense", {"shared_intermediate_size": 96}, "wanted intermediate_size, 160"),
        ("bamba", {"mamba_conv_bias": False}, "mamba_conv_bias is false, wanted true"),
        ("bamba", {"mlp_bias": True}, "mlp_bias is true, wanted false"),
        ("falcon_h1", {"mamba_norm_before_gate": True}, "mamba_norm_before_gate is true, wanted false"),
        ("falcon_h1", {"ssm_multipliers": [1.0]}, "wanted a list of 5 numbers"),
        ("falcon_h1", {"projectors_bias": True}, "projectors_bias is true"),
        (
            "nemotron_h",
            {"hybrid_override_pattern": "ME*?"},
            "hybrid_override_pattern is 'ME*?'",
        ),
        ("nemotron_h", {"hybrid_override_pattern": "ME*-"}, "wanted one of them"),
        ("nemotron_h", {"mlp_hidden_act": "silu"}, "mlp_hidden_act is 'silu'"),
        ("jamba", {"attn_layer_offset": 3}, "attn_layer_offset is 3, wanted less than attn_layer_period, 3"),
        ("jamba", {"mamba_proj_bias": True}, "mamba_proj_bias is true"),
        ("mamba", {"expand": 3}, "expand is 3, wanted 2"),
        ("mamba", {"use_bias": True}, "use_bias is true, wanted false"),
        ("mamba2", {"use_conv_bias": False}, "use_conv_bias is false, wanted true"),
        ("mamba2", {"head_dim": 8}, "head_dim is 8, wanted 16"),
        ("kimi_linear", {"q_lora_rank": 16}, "q_lora_rank is 16, wanted null"),
        ("kimi_linear", {"moe_renormalize": False}, "moe_renormalize is false, wanted true"),
        ("bailingmoe3", {"no_kda_lora": False}, "no_kda_lora is false, wanted true"),
        ("minimax_01", {"layernorm_mlp_alpha": 2.0}, "layernorm_mlp_alpha is 2.0, wanted 3.5, as the others"),
        ("minimax_01", {"attn_type_list": [0, 1]}, "attn_type_list is '2 numbers'"),
        ("minimax_01", {"postnorm": False}, "postnorm is false, wanted true"),
        ("rwkv7", {"attn": {"layers": [1]}}, "llama.cpp's rwkv7 graph has no layers of attention"),
        ("rwkv7", {"head_dim": 48}, "head_dim is 48, wanted a divisor of hidden_size, 64"),
        ("rwkv6", {"attention_hidden_size": 96}, "attention_hidden_size is 96, wanted 64"),
        ("plamo2", {"mamba_enabled": False}, "mamba_enabled is false, wanted true"),
    ],
)
def test_what_the_graph_cannot_do_is_a_problem(
    case: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = {**config_of(case, tmp_path), **changes}
    with pytest.raises(PlanError) as caught:
        architectures.find(config).text(config)
    assert message in str(caught.value)


@pytest.mark.parametrize("infinity", [float("inf"), "Infinity", {"__float__": "Infinity"}])
def test_every_spelling_of_no_limit_is_one(infinity: object, tmp_path: Path) -> None:
    config = {**config_of("bamba", tmp_path), "time_step_limit": [0.0, infinity]}
    assert architectures.find(config).text(config).tensors


def test_what_the_source_does_otherwise_is_noted(tmp_path: Path) -> None:
    for name, changes, note in (
        ("nemotron_h", {}, "no time step below 0.001"),
        ("mamba, Falcon-Mamba", {"mixer_rms_eps": 1e-6}, "norms within a layer have 1e-06"),
        ("kimi_linear", {"rms_norm_eps": 1e-5}, "norms of latent vectors"),
        ("minimax_01", {"rms_norm_eps": 1e-5}, "behind lightning attention"),
        ("plamo2", {"window_size": 128}, "sees 128 tokens back"),
    ):
        config = {**config_of(name, tmp_path / name), **changes}
        assert any(note in one for one in architectures.find(config).text(config).notes), name


def test_powers_are_rounded_once() -> None:
    values = np.linspace(-4, 4, 4001, dtype=np.float32)
    exact = np.exp(values.astype(np.float64))
    assert np.array_equal(exact_exp(values), exact.astype(np.float32))
    assert np.abs(exact_exp(values) / exact - 1).max() < 2**-24


def test_layers_may_be_said_in_older_words(tmp_path: Path) -> None:
    """Kinds by a list, by letters, by indices: the same tensors."""

    def names(config: dict[str, Any]) -> set[str]:
        return {tensor.source for tensor in architectures.find(config).text(config).tensors}

    lfm2 = config_of("lfm2", tmp_path / "lfm2")
    assert names(lfm2) == names({**lfm2, "layer_types": None, "full_attn_idxs": [1]})
    nemotron = config_of("nemotron_h", tmp_path / "nemotron")
    kinds = ["linear_attention", "moe", "full_attention", "mamba"]
    assert names(nemotron) == names({**nemotron, "hybrid_override_pattern": None, "layers_block_type": kinds})
    qwen = config_of("qwen3_next", tmp_path / "qwen")
    assert names(qwen) == names({**qwen, "layer_types": None, "full_attention_interval": 2})


@pytest.mark.parametrize("name", ["qwen3_next", "qwen3_5", "qwen3_5_moe", "nemotron_h"])
def test_layers_that_guess_further_ahead_are_left_out(name: str, tmp_path: Path) -> None:
    config = config_of(name, tmp_path)
    left_out = architectures.find(config).text(config).left_out
    assert any(rule.covers("mtp.layers.0.self_attn.q_proj.weight") for rule in left_out)
    assert not any(rule.covers("model.layers.0.self_attn.q_proj.weight") for rule in left_out)
