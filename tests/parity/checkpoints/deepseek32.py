from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, Words, build
from tests.parity.checkpoints.deepseek2 import BY_BYTES, GLM_ROLES, GLM_WORDS, SCALES, YARN
from tests.parity.experts import corrected
from tests.parity.families import Case

HUB = corrected(".mlp.gate.e_score_correction_bias")
SHARP = {**SCALES, "indexer.wq_b.weight": 16, "indexer.wk.weight": 16, "weights_proj.weight": 16}


def indexed(name: str, kind: str, tokens: Words = QWEN, **words: Any) -> Callable[[Path], Path]:
    config = {
        **SIZES,
        "architectures": [name],
        "model_type": kind,
        "hidden_act": "silu",
        "num_hidden_layers": 3,
        "num_key_value_heads": 4,
        "q_lora_rank": 40,
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 24,
        "qk_rope_head_dim": 16,
        "v_head_dim": 20,
        "index_head_dim": 64,
        "index_n_heads": 4,
        "index_topk": 90,  # of 96 tokens: llama.cpp's indexer keeps keys in 16 bits, and close choices fall otherwise
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "moe_intermediate_size": 48,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 3,
        "n_group": 4,
        "topk_group": 2,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "attention_bias": False,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000,
        "tie_word_embeddings": False,
    }
    return lambda folder: build(folder, tokens, config | words, hub=HUB, scales=SHARP)


def glm(**words: Any) -> Callable[[Path], Path]:
    return indexed("GlmMoeDsaForCausalLM", "glm_moe_dsa", GLM_WORDS, **{"n_group": 1, "topk_group": 1, **words})


SCALED = {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}
NEXT = {"glm-dsa.nextn_predict_layers": "layers that predict tokens further ahead are left out"}
CASES = {
    "": Case(indexed("DeepseekV32ForCausalLM", "deepseek_v32", rope_scaling=SCALED), allowed=BY_BYTES),
    "GLM-5": Case(
        glm(indexer_types=["full", "shared", "full"]),
        allowed=BY_BYTES | GLM_ROLES | NEXT,
    ),
}
