from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests import tiny
from tests.parity.build import QWEN, SHARP, SIZES, build, with_token
from tests.parity.checkpoints.deepseek2 import with_correction
from tests.parity.families import Case

TOKENS = ("[gMASK]", "<|user|>", "<|observation|>")  # which upstream looks for


def tokenizer() -> str:
    text = tiny.qwen_tokenizer(496)
    for token in TOKENS:
        text = with_token(text, token)
    return text


def glm4_moe(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["Glm4MoeForCausalLM"],
        "model_type": "glm4_moe",
        "hidden_act": "silu",
        "num_hidden_layers": 3,
        "head_dim": 24,
        "partial_rotary_factor": 0.5,
        "attention_bias": True,
        "use_qk_norm": False,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 48,
        "n_routed_experts": 6,
        "n_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.5,
        "num_nextn_predict_layers": 0,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000,
        "tie_word_embeddings": False,
    }
    scales = {**SHARP, "q_norm.weight": 6, "_proj.bias": 4, "mlp.gate.weight": 8, "experts.down_proj": 4}
    words_of_glm = replace(QWEN, tokenizer=tokenizer)
    return build(folder, words_of_glm, config | words, hub=with_correction, scales=scales)


ALLOWED = {
    **{
        f"tokenizer.ggml.{role}_token_id": "upstream names GLM's tokens itself; ours are the tokenizer's"
        for role in ("bos", "eos", "unknown", "eot", "eom", "padding")
    },
    "order of tensors": "ours is that of the bytes, where float32 comes first; upstream's is by name",
    "glm4moe.nextn_predict_layers": "layers that predict tokens further ahead are left out",
}

CASES = {
    "": Case(glm4_moe, allowed=ALLOWED),
    "norms on queries and keys": Case(
        lambda folder: glm4_moe(folder, use_qk_norm=True, attention_bias=False, routed_scaling_factor=2.5),
        allowed=ALLOWED,
    ),
}
