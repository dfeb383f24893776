from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests import tiny
from tests.parity.build import QWEN, SIZES, Tensors, build, published, same, with_token
from tests.parity.checkpoints.deepseek2 import BY_BYTES
from tests.parity.checkpoints.deepseek32 import SHARP
from tests.parity.experts import corrected
from tests.parity.families import Case

WORDS = replace(QWEN, tokenizer=lambda: with_token(tiny.qwen_tokenizer(496), "<|endofassistant|>"))
CONFIG: dict[str, Any] = {
    **SIZES,
    "architectures": ["Dots3NoteForCausalLM"],
    "model_type": "dots3",
    "hidden_act": "silu",
    "apply_mla_qkv_lora_rescale": True,
    "attention_bias": False,
    "attention_gate_type": "headwise",
    "swa_attention_gate_type": "headwise",
    "num_hidden_layers": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 40,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 16,
    "v_head_dim": 20,
    "head_dim": 40,
    "swa_num_attention_heads": 2,
    "swa_num_key_value_heads": 2,
    "swa_q_lora_rank": 40,
    "swa_kv_lora_rank": 48,
    "swa_qk_nope_head_dim": 32,
    "swa_qk_rope_head_dim": 16,
    "swa_head_dim": 48,
    "swa_v_head_dim": 28,
    "swa_rope_theta": 10000.0,
    "index_head_dim": 64,
    "index_n_heads": 4,
    "index_topk": 94,  # of 96 tokens: see deepseek32.py
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
    "sliding_window_size": 24,
    "use_dsa": True,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 48,
    "moe_shared_expert_intermediate_size": 48,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
}


def equal(folder: Path) -> Path:
    """In transformers' layout."""
    config = {**CONFIG, "model_type": "dots3_note_text"}
    hub = corrected(".mlp.gate.e_score_correction_bias", hub=same)
    return build(folder, WORDS, config, hub=hub, scales={**SHARP, "g_proj.weight": 8})


def apart(tensors: Tensors) -> Tensors:
    """The publishers' names: every expert's matrices apart; and an encoder that this file leaves out."""
    import torch

    made = {"vision_encoder.patch_embed.norm.weight": torch.ones(8)}
    for name, values in tensors.items():
        made |= tiny.hub_tensors(name, values)
    return made


NESTED: dict[str, Any] = {
    "architectures": ["Dots3NoteForConditionalGeneration"],
    "model_type": "dots3_seeing",
    "text_config": {key: value for key, value in CONFIG.items() if key != "architectures"}
    | {"vocab_size": WORDS.vocab},
    "vision_config": {"hidden_size": 32},
}
TEXT = {**CONFIG, "architectures": ["Dots3NoteTextForCausalLM"]}
EOT = {"tokenizer.ggml.eot_token_id": "upstream names it; ours is the tokenizer's"}


def case(config: dict[str, Any], **words: Any) -> Case:
    return Case(lambda folder: published(equal(folder), config, apart), equal=equal, allowed=BY_BYTES | EOT, **words)


CASES = {
    "": case(CONFIG),
    "within a model that sees": case(NESTED, no_parity="upstream looks for its sizes at the top of the config only"),
    "its text alone": case(TEXT),
}
