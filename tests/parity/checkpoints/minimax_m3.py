from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, Tensors, build, published, same
from tests.parity.checkpoints.deepseek2 import BY_BYTES
from tests.parity.experts import SCALES, corrected
from tests.parity.families import Case

NUMBERS = {
    **SIZES,
    "head_dim": 24,
    "num_hidden_layers": 3,
    "intermediate_size": 48,
    "dense_intermediate_size": 128,
    "shared_intermediate_size": 48,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "routed_scaling_factor": 2.0,
    "rotary_dim": 12,
    "swiglu_alpha": 1.702,
    "swiglu_limit": 7.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
# all blocks are chosen: without flash attention, which would round, llama.cpp attends to all
BLOCKS = {
    "use_sparse_attention": True,
    "sparse_index_dim": 24,
    "sparse_num_index_heads": 2,
    "sparse_topk_blocks": 16,
    "sparse_block_size": 16,
    "sparse_local_block": 1,
    "sparse_attention_freq": [0, 1, 1],
}
CONFIG: dict[str, Any] = {
    **NUMBERS,
    "architectures": ["MiniMaxM3SparseForCausalLM"],
    "model_type": "minimax_m3",
    "hidden_act": "swigluoai",
    "moe_layer_freq": [0, 1, 1],
    "n_shared_experts": 1,
    "qk_norm_type": "per_head",
    "rope_theta": 5000000,
    "scoring_func": "sigmoid",
    "sparse_attention_config": BLOCKS,
    "use_gemma_norm": True,
    "use_qk_norm": True,
    "use_routing_bias": True,
}
NESTED = {
    "architectures": ["MiniMaxM3SparseForConditionalGeneration"],
    "model_type": "minimax_m3_seeing",
    "text_config": {key: value for key, value in CONFIG.items() if key != "architectures"} | {"vocab_size": QWEN.vocab},
    "vision_config": {"hidden_size": 32},
}
NAMES = (
    (".mlp.gate.e_score_correction_bias", ".block_sparse_moe.e_score_correction_bias"),
    (".mlp.gate.", ".block_sparse_moe.gate."),
    (".mlp.shared_experts.", ".block_sparse_moe.shared_experts."),
    (".self_attn.indexer.", ".self_attn.index_"),
)


def equal(folder: Path) -> Path:
    """In transformers' layout."""
    config = {
        **NUMBERS,
        "architectures": ["MiniMaxM3VLForCausalLM"],
        "model_type": "minimax_m3_vl_text",
        "layer_types": ["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"],
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000000, "partial_rotary_factor": 0.5},
        "index_n_heads": 2,
        "index_head_dim": 24,
        "index_block_size": 16,
        "index_topk_blocks": 16,
        "index_local_blocks": 1,
    }
    hub = corrected(".mlp.gate.e_score_correction_bias", hub=same)
    return build(folder, QWEN, config, hub=hub, scales={**SCALES, "norm.weight": 0.2})


def minimax(tensors: Tensors) -> Tensors:
    """The publishers' names: every matrix apart."""
    made: Tensors = {}
    for own, values in tensors.items():
        name = own
        for old, new in NAMES:
            name = name.replace(old, new)
        start, _, which = name.partition(".mlp.experts.")
        if which:
            for number, expert in enumerate(values):
                halves = expert.chunk(2) if which == "gate_up_proj" else (expert,)
                parts = ("w1", "w3") if which == "gate_up_proj" else ("w2",)
                stem = f"{start}.block_sparse_moe.experts.{number}"
                made |= {f"{stem}.{part}.weight": half for part, half in zip(parts, halves, strict=True)}
        elif name.endswith("gate_up_proj.weight"):
            gate, up = values.chunk(2)
            made |= {name.replace("gate_up", "gate"): gate, name.replace("gate_up", "up"): up}
        else:
            made[name] = values
    return made


def seeing(tensors: Tensors) -> Tensors:
    """The language model within another, beside a tower."""
    import torch

    tower = {"vision_tower.vision_model.embeddings.patch_embedding.weight": torch.ones(4, 3, 2, 14, 14)}
    return tower | {f"language_model.{name}": values for name, values in minimax(tensors).items()}


CASES = {
    "": Case(lambda folder: published(equal(folder), CONFIG, minimax), equal=equal, allowed=BY_BYTES),
    "with a tower": Case(lambda folder: published(equal(folder), NESTED, seeing), equal=equal, allowed=BY_BYTES),
}
