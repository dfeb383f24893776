"""What llama.cpp's graphs of these families cannot compute is refused when it is planned, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convert.errors import PlanError
from tests.architectures.test_dense_families import text
from tests.fixtures_gguf import edit_weights, source_inputs, stage
from tests.parity.families import cases, config_of

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
        ("baichuan", {"num_hidden_layers": 31}, "num_hidden_layers is 31, wanted 32 or 40"),
        ("baichuan", {"tie_word_embeddings": True}, "tie_word_embeddings is true, wanted false"),
        ("chatglm", {"rmsnorm": False}, "rmsnorm is false, wanted true"),
        ("chatglm", {"position_encoding_2d": True}, "position_encoding_2d is true, wanted false"),
        ("exaone", {"activation_function": "gelu"}, "activation_function is 'gelu'"),
        ("internlm2", {"bias": True}, "bias is true, wanted false"),
        ("minicpm", {"num_experts": 8}, "num_experts is 8, wanted 0"),
        ("minicpm3", {"scale_emb": 10}, "scale_emb is 10, wanted 12"),
        ("minicpm3", {"q_lora_rank": None}, "q_lora_rank is missing"),
        ("minicpm3", {"num_key_value_heads": 2}, "num_key_value_heads is 2, wanted 4"),
        ("orion", {"tie_word_embeddings": True}, "tie_word_embeddings is true, wanted false"),
        ("qwen", {"no_bias": False}, "no_bias is false, wanted true"),
        ("qwen", {"intermediate_size": 255}, "intermediate_size is 255, wanted an even number"),
        ("qwen", {"rotary_pct": 0.5}, "rotary_pct is 0.5, wanted 1.0"),
        ("xverse", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "type is 'yarn'"),
        ("hrm_text", {"H_cycles": 200}, "H_cycles is '2 layers in 200 x 4 cycles', wanted at most 512 passes"),
        ("hrm_text", {"mlp_bias": True}, "mlp_bias is true, wanted false"),
        ("maincoder", {"use_qk_norm": False}, "use_qk_norm is false, wanted true"),
        ("mellum", {"norm_topk_prob": False}, "norm_topk_prob is false, wanted true"),
        ("mellum", {"mlp_layer_types": ["dense", "sparse"]}, "mlp_layer_types is ['dense', 'sparse']"),
        (
            "mellum",
            {"rope_parameters": {"full_attention": {"rope_theta": 5e5}, "sliding_attention": {"rope_theta": 1e4}}},
            "rope_theta is 10000.0, wanted 500000",
        ),
        ("nanbeige", {"num_loops": 300}, "num_loops is 300, wanted at most 256"),
        ("nanbeige", {"attention_bias": True}, "attention_bias is true, wanted false"),
        ("pangu_embed", {"bias": False}, "bias is false, wanted true"),
        ("plm", {"tie_word_embeddings": False}, "tie_word_embeddings is false, wanted true"),
        ("plm", {"q_lora_rank": 40}, "q_lora_rank is 40, wanted null"),
        ("plm", {"hidden_act": "silu"}, "hidden_act is 'silu', wanted 'relu2'"),
        ("spark2_5", {"gate_attn_act_mode": "tanh"}, "gate_attn_act_mode is 'tanh', wanted sigmoid"),
        ("spark2_5", {"layer_types": ["full_attention"] * 2}, "wanted sliding_attention among them"),
        ("spark2_5", {"hidden_act": "silu"}, "hidden_act is 'silu', wanted 'gelu'"),
        (
            "spark2_5",
            {"rope_parameters": {"sliding_attention": {"partial_rotary_factor": 0.1}}},
            "wanted an even part of a head of 32 values",
        ),
        ("talkie", {"tie_word_embeddings": True}, "tie_word_embeddings is true, wanted false"),
        ("youtu", {"rope_interleave": False}, "rope_interleave is false, wanted true"),
        ("youtu", {"num_hidden_layers": 26}, "q_lora_rank is 40, wanted null"),
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


@pytest.mark.parametrize(
    ("case", "changes", "note"),
    [
        ("internlm2", {}, "in texts of more than 512 tokens the source changes its frequencies"),
        ("internlm3", {}, "in texts of more than 512 tokens the source changes its frequencies"),
        ("qwen", {}, "in texts of more than 256 tokens the source changes frequencies and scores"),
        ("minicpm", {"sparse_config": {"kernel_size": 32}}, "chosen blocks of long texts only"),
        ("minicpm, MiniCPM 4", {}, "room for more than 64 tokens"),
        ("minicpm3", {}, "room for more than 64 tokens"),
    ],
)
def test_what_the_source_does_otherwise_in_long_texts_is_noted(
    case: str, changes: dict[str, Any], note: str, tmp_path: Path
) -> None:
    config = config_of(case, tmp_path)
    (said,) = (said for said in text({**config, **changes}).notes if note in said)
    plain = {"rope_scaling": None, "use_dynamic_ntk": False, "use_logn_attn": False, "sparse_config": None}
    assert said not in text({**config, **changes, **plain}).notes


@pytest.mark.parametrize("vocab", [125696, 64000])
def test_a_head_that_its_code_normalizes_is_told_by_its_vocabulary(vocab: int, tmp_path: Path) -> None:
    spec = text({**config_of("baichuan", tmp_path), "vocab_size": vocab})
    (head,) = (output for tensor in spec.tensors for output in tensor.outputs if output.name == "output.weight")
    assert bool(head.change) == (vocab == 125696)
