from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests import tiny
from tests.parity.build import QWEN, SHARP, SIZES, Hub, Tensors, Words, build, with_token
from tests.parity.families import Case

SCALES = {
    **SHARP,
    "q_b_proj.weight": 16,
    "kv_a_proj_with_mqa.weight": 4,
    "kv_b_proj.weight": 8,
    "mlp.gate.weight": 8,
    "experts.down_proj": 4,
}
V2 = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "scoring_func": "softmax",
    "topk_method": "greedy",
    "norm_topk_prob": False,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.0,
    "n_shared_experts": 2,
    "q_lora_rank": None,
}
V3 = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
    "n_shared_experts": 1,
    "q_lora_rank": 40,
    "num_nextn_predict_layers": 1,
}
GLM = {
    **V3,
    "architectures": ["Glm4MoeLiteForCausalLM"],
    "model_type": "glm4_moe_lite",
    "n_group": 1,
    "topk_group": 1,
    "num_nextn_predict_layers": 0,
}
YARN = {
    "type": "yarn",
    "factor": 8,
    "original_max_position_embeddings": 64,
    "beta_fast": 32,
    "beta_slow": 1,
}
NOT_LATENT = {
    "deepseek2.attention.q_lora_rank": "0 says there is none; without it llama.cpp loads only models of 26 or 27 layers"
}


BY_BYTES = {"order of tensors": "ours is that of the bytes, where float32 comes first; upstream's is by name"}
GLM_ROLES = {
    f"tokenizer.ggml.{role}_token_id": "upstream names GLM's tokens itself; ours are the tokenizer's"
    for role in ("bos", "eos", "unknown", "eot", "eom", "padding")
}


def glm_tokenizer() -> str:
    """The byte-level BPE with the tokens that upstream's converter looks for."""
    text = tiny.qwen_tokenizer(496)
    for token in ("[gMASK]", "<|user|>", "<|observation|>"):
        text = with_token(text, token)
    return text


GLM_WORDS = replace(QWEN, tokenizer=glm_tokenizer)


def with_correction(name: str, values: Any) -> Tensors:
    """A float32 bias on the choice of experts, which is no parameter in transformers."""
    import torch

    tensors = tiny.hub_tensors(name, values)
    if name.endswith("mlp.gate.weight"):
        bias = torch.linspace(-0.3, 0.3, len(values))
        tensors[name.replace("weight", "e_score_correction_bias")] = bias
    return tensors


def deepseek(
    kind: dict[str, Any], hub: Hub = tiny.hub_tensors, tokens: Words = QWEN, **words: Any
) -> Callable[[Path], Path]:
    config = {
        **SIZES,
        "hidden_act": "silu",
        "num_hidden_layers": 3,
        "num_key_value_heads": 4,
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 24,
        "qk_rope_head_dim": 16,
        "v_head_dim": 20,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "moe_intermediate_size": 48,
        "n_routed_experts": 12,
        "num_experts_per_tok": 3,
        "attention_bias": False,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000,
        "tie_word_embeddings": False,
    }
    return lambda folder: build(folder, tokens, config | kind | words, hub=hub, scales=SCALES)


CASES = {
    "V2-Lite": Case(deepseek(V2, rope_scaling={**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}), allowed=NOT_LATENT),
    "V2, latent queries": Case(deepseek(V2, q_lora_rank=40, routed_scaling_factor=16.0, first_k_dense_replace=0)),
    "V3": Case(
        deepseek(V3, with_correction, rope_scaling={**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}),
        allowed=BY_BYTES,
    ),
    "GLM-4.7-Flash": Case(deepseek(GLM, with_correction, GLM_WORDS), allowed=BY_BYTES | GLM_ROLES),
}
