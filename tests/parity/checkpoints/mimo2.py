from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import tiny
from tests.parity.build import QWEN, SIZES, build, published
from tests.parity.checkpoints.deepseek2 import BY_BYTES
from tests.parity.experts import SCALES, corrected, renamed
from tests.parity.families import Case

HUB = corrected(".mlp.gate.e_score_correction_bias", hub=renamed(tiny.hub_tensors, (".sinks", ".attention_sink_bias")))


CONFIG: dict[str, Any] = {
    **SIZES,
    "architectures": ["MiMoV2FlashForCausalLM"],
    "model_type": "mimo_v2_flash",
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_value_scale": 0.707,
    "head_dim": 24,
    "v_head_dim": 16,
    "num_hidden_layers": 4,
    "num_key_value_heads": 1,
    "hybrid_layer_pattern": [0, 1, 1, 0],
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
    "moe_layer_freq": [0, 1, 1, 1],
    "moe_intermediate_size": 48,
    "n_routed_experts": 8,
    "n_shared_experts": None,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": None,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "swa_head_dim": 24,
    "swa_v_head_dim": 16,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "add_swa_attention_sink_bias": True,
    "add_full_attention_sink_bias": False,
    "sliding_window": 24,
    "layernorm_epsilon": 1e-5,
    "partial_rotary_factor": 0.334,
    "rope_theta": 5000000,
    "swa_rope_theta": 10000,
    "tie_word_embeddings": False,
}
SCALES_HERE = {**SCALES, "sinks": 20}


def mimo(folder: Path, **words: Any) -> Path:
    """Layers with a window between two without; transformers takes the bases of frequencies for granted."""
    return build(folder, QWEN, CONFIG | words, hub=HUB, scales=SCALES_HERE)


def equal(folder: Path) -> Path:
    return mimo(folder, sliding_window_size=24)


DRAFTS = (
    "upstream always counts three layers that predict tokens further ahead, here as in all released models left out"
)
ALLOWED = {
    **BY_BYTES,
    "mimo2.block_count": DRAFTS,
    "mimo2.nextn_predict_layers": DRAFTS,
    "mimo2.attention.head_count_kv": DRAFTS,
    "mimo2.attention.sliding_window_pattern": DRAFTS,
    "mimo2.rope.freq_base_swa": "stated rather than left to llama.cpp's default",
}
WINDOW = {
    "mimo2.attention.sliding_window": "one more than sliding_window_size in transformers, which sees itself besides"
}
# upstream fails on what transformers makes of the config that it knows by model_type
UNKNOWN = {**CONFIG, "model_type": "mimo_v2", "sliding_window_size": 24}
NO_PARITY = "upstream looks for partial_rotary_factor where transformers no longer has it"
CASES = {
    "": Case(lambda folder: published(equal(folder), UNKNOWN), equal=equal, allowed=ALLOWED | WINDOW),
    "values as they are": Case(lambda folder: mimo(folder, attention_value_scale=1.0), no_parity=NO_PARITY),
}
