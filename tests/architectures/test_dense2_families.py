"""What llama.cpp's graphs of these families cannot compute is refused when it is planned, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convert import architectures
from convert.errors import PlanError
from tests.parity.families import config_of


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
        ("llama4", {"floor_scale": 4096}, "floor_scale is 4096, wanted 8192"),
        ("llama4", {"attn_temperature_tuning": False}, "attn_temperature_tuning is false, wanted true"),
        ("llama4", {"no_rope_layers": [1, 1, 1, 1]}, "no_rope_layers is [1, 1, 1, 1]"),
        ("llama4", {"moe_layers": [0, 1]}, "moe_layers is [0, 1], wanted every 2. layer"),
        ("llama4", {"num_local_experts": 128}, "use_qk_norm is true, wanted false"),
        ("granite_swa", {"layer_rope_theta": [1e4, 1e5, 0, 0, 0]}, "llama.cpp has one base for all layers"),
        ("jais2", {"mlp_bias": False}, "mlp_bias is false, wanted true"),
        ("codeshell", {"tie_word_embeddings": True}, "llama.cpp's codeshell graph wants a head of its own"),
        ("openelm", {"num_kv_heads": [2, 2]}, "a divisor of num_query_heads in each layer"),
        ("openelm", {"num_query_heads": [4]}, "wanted a list of 2 numbers above 0"),
        ("openelm", {"ffn_with_glu": False}, "ffn_with_glu is false, wanted true"),
        ("llada", {"include_qkv_bias": True}, "include_qkv_bias is true, wanted false"),
        ("llada", {"block_type": "sequential"}, "block_type is 'sequential', wanted llama"),
        ("rnd1", {"norm_topk_prob": False}, "norm_topk_prob is false, wanted true"),
        ("deci", {"block_configs": []}, "wanted an object for each of 4 layers"),
        ("deci", {"block_configs": [{"attention": {"n_heads_in_group": 3}}] * 4}, "n_heads_in_group is 3"),
        (
            "deci",
            {"block_configs": [{"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": None}}] * 4},
            "llama.cpp takes no attention from a layer without an MLP",
        ),
        (
            "deci",
            {"block_configs": [{"attention": {"window_length": 512}, "ffn": {"ffn_mult": 1.0}}] * 4},
            "window_length is 512",
        ),
        ("deci, 7B", {"num_key_value_heads_per_layer": [1, 3]}, "a divisor of num_attention_heads, 4, for each of 2"),
        ("jais", {"mup_scale_qk_dot_by_d": False}, "llama.cpp's jais graph divides scores by the size of a head"),
        ("jais", {"position_embedding_type": "learned"}, "position_embedding_type is 'learned'"),
        ("refact", {"multi_query": False}, "multi_query is false, wanted true"),
        ("olmo, as AI2 saved it", {"include_bias": True}, "include_bias is true, wanted false"),
        ("olmo, as AI2 saved it", {"activation_type": "gelu"}, "activation_type is 'gelu', wanted swiglu"),
        ("plamo3", {"rope_scaling_factor": 4}, "rope_scaling_factor is 4, wanted 1"),
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
