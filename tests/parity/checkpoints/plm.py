from __future__ import annotations

from pathlib import Path

from tests.fixtures_gguf import edit_weights
from tests.parity.build import QWEN, SIZES, Tensors, build, published
from tests.parity.checkpoints.deepseek2 import SCALES, V2
from tests.parity.families import Case

LATENT = {
    "hidden_size": 80,
    "kv_lora_rank": 32,
    "num_key_value_heads": 4,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 16,
    "v_head_dim": 20,
}


def equal(folder: Path) -> Path:
    """A DeepSeek-V2 of dense layers, whose gates are what they are for: relu(x) * x is the squared ReLU."""
    config = {
        **SIZES,
        **V2,
        **LATENT,
        "first_k_dense_replace": 2,
        "hidden_act": "relu",
        "moe_intermediate_size": 48,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000,
        "tie_word_embeddings": True,
    }

    def same_gates(tensors: Tensors) -> None:
        for name in [name for name in tensors if "up_proj" in name]:
            tensors[name.replace("up_proj", "gate_proj")] = tensors[name].clone()

    edit_weights(build(folder, QWEN, config, scales=SCALES), same_gates)
    return folder


def plm(folder: Path) -> Path:
    config = {
        **SIZES,
        **LATENT,
        "architectures": ["PLMForCausalLM"],
        "model_type": "plm",
        "attention_bias": False,
        "hidden_act": "relu2",
        "q_lora_rank": None,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000,
        "tie_word_embeddings": True,
    }
    return published(equal(folder), config, without_gates)


def without_gates(tensors: Tensors) -> Tensors:
    return {name: values for name, values in tensors.items() if "gate_proj" not in name}


CASES = {"": Case(plm, equal=equal)}
