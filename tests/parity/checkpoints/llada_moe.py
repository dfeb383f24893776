from __future__ import annotations

from tests.parity.checkpoints.maple import NUMBERS, as_qwen
from tests.parity.families import Case

NUMBERS_HERE = {key: value for key, value in NUMBERS.items() if key not in ("head_dim", "moe_intermediate_size")}
CONFIG = {
    **NUMBERS_HERE,
    "architectures": ["LLaDAMoEModelLM"],
    "model_type": "llada",
    "clip_qkv": None,
    "dense_intermediate_size": 128,
    "expert_intermediate_size": 48,
    "moe_layer_freq": None,
    "norm_topk_prob": False,
    "qk_layernorm": True,
    "shared_expert_intermediate_size": None,
}
MASK = {"tokenizer.ggml.mask_token_id": "the tokenizer's, where it has one; upstream's is that of one release"}
NO_LOGITS = "it fills in tokens that all others surround: there are no logits of a next one"
BASE = {**CONFIG, "architectures": ["LLaDAMoEModel"]}
DRAWN = {"head_dim": 16, "norm_topk_prob": False}
CASES = {
    "": Case(as_qwen(CONFIG, **DRAWN), allowed=MASK, no_logits=NO_LOGITS),
    "base model": Case(as_qwen(BASE, **DRAWN), allowed=MASK, no_logits=NO_LOGITS),
}
