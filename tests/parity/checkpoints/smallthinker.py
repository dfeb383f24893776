from __future__ import annotations

from tests.parity.build import SIZES, Tensors
from tests.parity.checkpoints.maple import NO_LOGITS, as_qwen
from tests.parity.families import Case

NAMES = (
    (".mlp.gate.", ".block_sparse_moe.primary_router."),
    (".mlp.", ".block_sparse_moe."),
    (".gate_proj.", ".gate."),
    (".up_proj.", ".up."),
    (".down_proj.", ".down."),
)
CONFIG = {
    **{key: value for key, value in SIZES.items() if key != "intermediate_size"},
    "architectures": ["SmallThinkerForCausalLM"],
    "model_type": "smallthinker",
    "head_dim": 24,
    "moe_enable_early_router": True,
    "moe_ffn_hidden_size": 48,
    "moe_layer_layout": [1, 1],
    "moe_num_primary_experts": 6,
    "moe_num_active_primary_experts": 2,
    "moe_primary_router_apply_softmax": False,
    "rms_norm_eps": 1e-6,
    "rope_layout": [0, 1],
    "rope_theta": 10000.0,
    "sliding_window_layout": [0, 1],
    "sliding_window_size": 4096,
    "tie_word_embeddings": False,
}
WHOLE = {**CONFIG, "rope_layout": [1, 1], "sliding_window_layout": [0, 0], "moe_primary_router_apply_softmax": True}


def small(tensors: Tensors) -> Tensors:
    """The publishers' names; no norms on queries and keys."""
    made = {}
    for own, values in tensors.items():
        name = own
        for old, new in NAMES:
            name = name.replace(old, new)
        if "q_norm" not in name and "k_norm" not in name:
            made[name] = values
    return made


CASES = {
    "": Case(as_qwen(CONFIG, small), no_logits=NO_LOGITS),
    "no windows": Case(as_qwen(WHOLE, small), no_logits=NO_LOGITS),
}
