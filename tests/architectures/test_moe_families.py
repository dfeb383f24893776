"""What llama.cpp's graphs of mixtures of experts cannot compute is refused when it is planned, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convert.errors import PlanError
from tests.architectures.test_dense_families import text
from tests.parity.families import config_of


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("ernie4_5_moe", {"use_bias": True}, "use_bias is true, wanted false"),
        ("ernie4_5_moe", {"moe_layer_interval": 2}, "moe_layer_interval is 2, wanted 1"),
        ("ernie4_5_moe", {"moe_layer_end_index": 1}, "moe_layer_end_index is 1, wanted -1"),
        ("dots1", {"num_key_value_heads": 2}, "num_key_value_heads is 2, wanted 4"),
        ("dots1", {"n_group": 3}, "n_group is 3, wanted a divisor of the number of experts, 8"),
        (
            "dots1",
            {"mlp_layer_types": ["sparse", "dense", "sparse"]},
            "dense layers first, then experts in every layer",
        ),
        ("minimax_m2", {"qk_norm_type": "per_head"}, "qk_norm_type is 'per_head', wanted per_layer"),
        ("afmoe", {"mup_enabled": False}, "mup_enabled is false, wanted true"),
        (
            "afmoe",
            {"global_attn_every_n_layers": 3},
            "global_attn_every_n_layers is 3, wanted full attention in every 4.",
        ),
        ("exaone_moe", {"tie_word_embeddings": True}, "tie_word_embeddings is true, wanted false"),
        ("solar_open", {"first_k_dense_replace": 1}, "first_k_dense_replace is 1, wanted 0"),
        ("hunyuan_v1_moe", {"moe_topk": [2, 1]}, "moe_topk is [2, 1], wanted the same for every layer"),
        ("hunyuan_v1_moe", {"moe_intermediate_size": 64}, "moe_intermediate_size is 64, wanted 96"),
        ("hy_v3", {"route_norm": False}, "route_norm is false, wanted true"),
        ("deepseek", {"norm_topk_prob": True}, "norm_topk_prob is true, wanted false"),
        ("bailingmoe", {"norm_head": True}, "norm_head is true, wanted false"),
        ("bailingmoe2", {"moe_shared_expert_intermediate_size": 96}, "a shared expert is as wide as the others"),
        ("deepseek32", {"q_lora_rank": None}, "q_lora_rank is null, wanted a number"),
        ("deepseek32", {"index_head_dim": 96}, "index_head_dim is 96, wanted a power of two, 64 or more"),
        ("deepseek32, GLM-5", {"indexer_types": ["shared", "full", "full"]}, "there is none before it"),
        ("mimo2", {"swa_num_key_value_heads": 3}, "swa_num_key_value_heads is 3, wanted 2"),
        ("mimo2", {"layer_types": None, "hybrid_layer_pattern": [0, 1]}, "wanted 4 numbers, one for a layer"),
        ("step35", {"partial_rotary_factors": [1.0] * 4}, "wanted 0.5 in layers of full_attention"),
        ("step35", {"swiglu_limits": [7.0]}, "swiglu_limits is [7.0], wanted a list of 4 entries"),
        ("step35", {"rope_scaling": {"rope_type": "llama3"}}, "rope_type is 'llama3', wanted default"),
        ("step35", {"moe_layers_enum": "all"}, "moe_layers_enum is 'all', wanted numbers of layers"),
        ("laguna", {"num_attention_heads_per_layer": [4, 5, 6, 6, 4]}, "wanted 5 multiples of num_key_value_heads, 2"),
        ("laguna", {"gating": "none"}, "gating is 'none', wanted true"),
        ("cohere2_moe", {"shared_expert_combination_strategy": "sum"}, "is 'sum', wanted average"),
        ("minimax_m3", {"swiglu_limit": 10.0}, "swiglu_limit is 10.0, wanted 7.0"),
        ("minimax_m3", {"moe_layer_freq": [0, 1, 0]}, "dense layers first, then experts in every layer"),
        ("granitemoe_swa", {"layer_rope_theta": [5.0, 0, 10000.0, 0]}, "llama.cpp has one base for all layers"),
        ("dbrx", {"ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 6}}, "moe_top_k is missing"),
        ("smallthinker", {"sliding_window_size": 1024}, "sliding_window_size is 1024, wanted 4096"),
        ("smallthinker", {"sliding_window_layout": [1, 0]}, "knows no other order of layers"),
        ("grovemoe", {"num_experts": 5}, "num_experts is 5, wanted a multiple of 2"),
        ("maple", {"nope_on_global_attention": False}, "nope_on_global_attention is false, wanted true"),
        ("llada_moe", {"norm_topk_prob": True}, "norm_topk_prob is true, wanted false"),
        ("minimax_01", {"layernorm_mlp_alpha": 2.0}, "layernorm_mlp_alpha is 2.0, wanted 3.5, as the others"),
        ("minimax_01", {"attn_type_list": [0, 1]}, "wanted one for each of 3 layers"),
        ("dots3_note", {"apply_mla_qkv_lora_rescale": False}, "apply_mla_qkv_lora_rescale is false, wanted true"),
        ("dots3_note", {"layer_types": ["full_attention"] * 4}, "llama.cpp's graph wants both kinds"),
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


def test_layers_without_experts_are_told_from_the_kinds_of_layers_alone(tmp_path: Path) -> None:
    config = config_of("dots1", tmp_path)
    fields = {field.key: field.value for field in text(config).fields}
    del config["first_k_dense_replace"]
    said = {
        field.key: field.value for field in text({**config, "mlp_layer_types": ["dense", "sparse", "sparse"]}).fields
    }
    assert said == fields
    assert said["dots1.leading_dense_block_count"] == 1


def test_a_window_of_mimo_counts_the_token_itself(tmp_path: Path) -> None:
    """sliding_window_size does not, sliding_window does."""
    config = config_of("mimo2", tmp_path)
    key = "mimo2.attention.sliding_window"
    assert {f.key: f.value for f in text({**config, "sliding_window_size": 128}).fields}[key] == 129
    assert {f.key: f.value for f in text({**config, "sliding_window_size": None, "sliding_window": 128}).fields}[
        key
    ] == 128


def test_that_blocks_of_tokens_are_chosen_with_flash_attention_only_is_noted(tmp_path: Path) -> None:
    assert any("with flash attention only" in note for note in text(config_of("minimax_m3", tmp_path)).notes)
