from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import tiny
from tests.parity.build import LLAMA, SIZES, Tensors, Words, build, published
from tests.parity.experts import SCALES
from tests.parity.families import Case

SHARED_DOWN = ".mlp.shared_expert.down_proj.weight"


def half_open(name: str, values: Any) -> Tensors:
    """Qwen2-MoE's tensors; the gate of the shared expert lets half of it through."""
    made: Tensors = tiny.hub_tensors(name, values)
    return {name: values * 0 if "shared_expert_gate" in name else values for name, values in made.items()}


def ungated(tensors: Tensors) -> Tensors:
    """The same model without that gate, its shared expert halved instead."""
    kept = {name: values for name, values in tensors.items() if "shared_expert_gate" not in name}
    halved = {name: values / 2 if name.endswith(SHARED_DOWN) else values for name, values in kept.items()}
    return {name.replace(".shared_expert.", ".shared_experts."): values for name, values in halved.items()}


CONFIG = {
    **SIZES,
    "architectures": ["DeepseekForCausalLM"],
    "model_type": "deepseek",
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekConfig"},
    "attention_bias": False,
    "hidden_act": "silu",
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 48,
    "moe_layer_freq": 1,
    "n_routed_experts": 6,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_experts_per_tok": 2,
    "scoring_func": "softmax",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


def equal(folder: Path, tokens: Words = LLAMA, **words: Any) -> Path:
    """DeepSeek's first experts as a Qwen2-MoE."""
    config = {
        **SIZES,
        "architectures": ["Qwen2MoeForCausalLM"],
        "model_type": "qwen2_moe",
        "hidden_act": "silu",
        "num_hidden_layers": 3,
        "mlp_only_layers": [0],
        "decoder_sparse_step": 1,
        "moe_intermediate_size": 48,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "norm_topk_prob": False,
        "qkv_bias": False,
        "shared_expert_intermediate_size": 96,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    return build(folder, tokens, config | words, hub=half_open, scales=SCALES)


CASES = {"": Case(lambda folder: published(equal(folder), CONFIG, ungated), equal=equal)}
