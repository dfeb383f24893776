"""What llama.cpp's graphs of the dense families cannot compute is refused when it is planned, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convert import architectures
from convert.architectures._graph_spec import GraphSpec
from convert.errors import PlanError
from tests.parity.families import config_of

LONG = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}


def text(config: dict[str, Any]) -> GraphSpec:
    part = architectures.find(config).text(config)
    assert isinstance(part, GraphSpec)
    return part


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        (
            "phi3",
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            "type is 'linear', wanted 'default', 'longrope', 'mrope' or 'su'",
        ),
        ("phi3", {"rope_scaling": {**LONG, "long_factor": [1.0] * 7}}, "wanted a list of 8 numbers"),
        ("phi3", {"sliding_window": 0}, "sliding_window is 0"),
        ("gemma3", {"query_pre_attn_scalar": 32}, "query_pre_attn_scalar is 32, wanted 24"),
        ("gemma3", {"num_hidden_layers": 62}, "query_pre_attn_scalar is 24, wanted 16"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0, wanted none"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention is true"),
        ("gpt_neox", {"attention_bias": False}, "attention_bias is false, wanted true"),
        ("gpt_neox", {"rotary_pct": 0.01}, "wanted an even part of a head of 16 values"),
        ("olmo2, olmo 3", {"rope_parameters": {"sliding_attention": {"rope_theta": 1e4}}}, "llama.cpp has one for all"),
        ("olmo2", {"tie_word_embeddings": True}, "tie_word_embeddings is true"),
        ("granite", {"residual_multiplier": 0}, "residual_multiplier is 0, wanted a number above 0"),
        ("smollm3", {"no_rope_layers": [1, 1, 0, 1, 1]}, "wanted 0 for every 4. layer"),
        ("smollm3", {"no_rope_layers": None, "no_rope_layer_interval": 3}, "no_rope_layer_interval is 3, wanted 4"),
        ("cohere", {"use_qk_norm": True}, "use_qk_norm is true, wanted false"),
        ("cohere", {"num_hidden_layers": 64}, "use_qk_norm is false, wanted true"),
        ("cohere", {"tie_word_embeddings": False}, "tie_word_embeddings is false, wanted true"),
        ("cohere2", {"sliding_window_pattern": 3}, "full attention in every 4. layer"),
        ("cohere2", {"rotary_pct": 0.5}, "rotary_pct is 0.5, wanted 1.0"),
        ("glm4", {"partial_rotary_factor": 2}, "wanted an even part of a head of 24 values"),
        ("glm", {"head_dim": 24}, "head_dim is 24, wanted hidden_size / num_attention_heads"),
        ("falcon", {"alibi": True}, "alibi is true, wanted false"),
        ("falcon", {"parallel_attn": False}, "parallel_attn is false, wanted true"),
        ("falcon", {"num_ln_in_parallel_attn": 2}, "two norms are of the new decoder architecture"),
        ("stablelm", {"tie_word_embeddings": True}, "tie_word_embeddings is true, wanted false"),
        ("phi", {"qk_layernorm": True}, "qk_layernorm is true, wanted false"),
        ("gemma", {"tie_word_embeddings": False}, "tie_word_embeddings is false, wanted true"),
        ("olmo", {"clip_qkv": -1}, "clip_qkv is -1, wanted a number above 0"),
        (
            "bloom",
            {"apply_residual_connection_post_layernorm": True},
            "apply_residual_connection_post_layernorm is true",
        ),
        ("mpt", {"no_bias": False}, "no_bias is false, wanted true"),
        ("mpt", {"attn_config": {"alibi": False}}, "alibi is false, wanted true"),
        ("nemotron", {"hidden_act": "silu"}, "hidden_act is 'silu', wanted 'relu2'"),
        ("exaone4", {"sliding_window": 24}, "has windows in models of 64 layers"),
        ("starcoder", {"scale_attn_weights": False}, "scale_attn_weights is false, wanted true"),
        ("starcoder", {"add_cross_attention": True}, "add_cross_attention is true, wanted false"),
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


def test_frequencies_for_long_texts_are_noted(tmp_path: Path) -> None:
    config = config_of("phi3, longrope, long", tmp_path)
    assert any("room for more than 64 tokens" in note for note in text(config).notes)
    assert not any("room for" in note for note in text({**config, "rope_scaling": None}).notes)


def test_the_first_falcons_share_one_key_whatever_the_config_counts(tmp_path: Path) -> None:
    config = config_of("falcon", tmp_path)
    for count in (None, 1, 4):
        fields = {field.key: field.value for field in text({**config, "num_kv_heads": count}).fields}
        assert fields["falcon.attention.head_count_kv"] == 1


def test_multi_query_alone_says_how_many_keys_a_starcoder_has(tmp_path: Path) -> None:
    config = config_of("starcoder", tmp_path)
    for shared, count in ((None, 1), (True, 1), (False, 4)):
        fields = {field.key: field.value for field in text({**config, "multi_query": shared}).fields}
        assert fields["starcoder.attention.head_count_kv"] == count


def test_slopes_that_transformers_does_not_read_are_noted(tmp_path: Path) -> None:
    config = config_of("mpt", tmp_path)
    steep = text({**config, "attn_config": {**config["attn_config"], "alibi_bias_max": 16}})
    assert {f.key: f.value for f in steep.fields}["mpt.attention.max_alibi_bias"] == 16
    assert any("alibi_bias_max, 16; transformers always 8" in note for note in steep.notes)
    assert not any("alibi" in note for note in text(config).notes)
