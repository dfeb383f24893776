from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, Tensors, build
from tests.parity.checkpoints.deepseek2 import BY_BYTES
from tests.parity.checkpoints.mamba import SCALES
from tests.parity.checkpoints.qwen3_next import WITHOUT_DRAFTS
from tests.parity.families import Case

SHARP = {"q_proj.weight": 12, "k_proj.weight": 12, "gate.weight": 8, "down_proj.weight": 8, "experts.down_proj": 8}
AS_SPARSE = "its config has the experts' words in transformers 5, and upstream takes it for a model with experts"


def published(name: str, values: Any) -> Tensors:
    """As on the hub: the experts apart, a float32 bias on their choice, and the first part of all names."""
    import torch

    name = name.replace("model.", "backbone.", 1)
    base, _, kind = name.rpartition(".experts.")
    if base:  # there is no gate
        return {f"{base}.experts.{i}.{kind}.weight": one.clone() for i, one in enumerate(values)}
    if name.endswith("mixer.gate.weight"):
        bias = torch.linspace(-0.3, 0.3, len(values))
        return {name: values, name.replace("weight", "e_score_correction_bias"): bias}
    return {name: values}


def nemotron_h(folder: Path, pattern: str = "ME*M", **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["NemotronHForCausalLM"],
        "model_type": "nemotron_h",
        "attention_bias": False,
        "chunk_size": 32,
        "conv_kernel": 4,
        "head_dim": 32,
        "hybrid_override_pattern": pattern,
        "layer_norm_epsilon": 1e-5,
        "mamba_head_dim": 16,
        "mamba_num_heads": 8,
        "mlp_bias": False,
        "mlp_hidden_act": "relu2",
        "moe_intermediate_size": 96,
        "moe_latent_size": 32,
        "moe_shared_expert_intermediate_size": 160,
        "n_group": 2,
        "n_groups": 2,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_experts_per_tok": 2,
        "num_hidden_layers": len(pattern),
        "routed_scaling_factor": 2.5,
        "ssm_state_size": 16,
        "tie_word_embeddings": False,
        "topk_group": 1,
        "use_bias": False,
        "use_conv_bias": True,
    }
    return build(folder, QWEN, config | words, hub=published, scales={**SHARP, **SCALES})


CASES = {
    "": Case(nemotron_h, allowed=BY_BYTES, upstream_options=WITHOUT_DRAFTS),
    "dense": Case(lambda folder: nemotron_h(folder, "M-*-"), no_parity=AS_SPARSE),
}
