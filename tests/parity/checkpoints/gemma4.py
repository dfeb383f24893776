from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests import tiny
from tests.parity.build import LLAMA, SIZES, Tensors, build
from tests.parity.families import Case

SLIDING, FULL = "sliding_attention", "full_attention"
ROPE = {
    FULL: {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"},
    SLIDING: {"rope_theta": 10000.0, "rope_type": "default"},
}
NO_CAP = {"gemma4.final_logit_softcapping": "0 says there is none; without it llama.cpp caps logits at 30"}
SCALES = {
    "q_norm.weight": 0.5,
    "embed_tokens_per_layer.weight": 4,
    "router.proj.weight": 20,
    "experts.gate_up_proj": 4,
    "experts.down_proj": 4,
    "per_expert_scale": 20,
    "router.scale": 20,
}


def unprefixed() -> str:
    """Gemma's tokenizer.json: no space in front of a text."""
    made = json.loads(tiny.sentencepiece_tokenizer(384))
    made["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    made["decoder"]["decoders"].pop()
    return json.dumps(made)


WORDS = replace(LLAMA, tokenizer=unprefixed, sentencepiece=False)


def scaled(name: str, values: Any) -> Tensors:
    """The scale of a layer's output is no parameter in transformers."""
    import torch

    if not name.endswith("input_layernorm.weight") or "layers" not in name:
        return {name: values}
    scale = torch.tensor([0.5 + len(name) / 40], dtype=values.dtype)
    return {name: values, name.replace("input_layernorm.weight", "layer_scalar"): scale}


def text(**words: Any) -> dict[str, Any]:
    """Four layers, the last two sharing keys and values, as E2B has them."""
    return {
        **SIZES,
        "architectures": ["Gemma4ForCausalLM"],
        "model_type": "gemma4_text",
        "num_hidden_layers": 4,
        "layer_types": [SLIDING, FULL, SLIDING, FULL],
        "head_dim": 24,
        "global_head_dim": 48,
        "num_global_key_value_heads": None,
        "attention_bias": False,
        "attention_k_eq_v": False,
        "enable_moe_block": False,
        "final_logit_softcapping": 30.0,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size_per_layer_input": 32,
        "num_experts": None,
        "num_kv_shared_layers": 2,
        "rms_norm_eps": 1e-6,
        "rope_parameters": ROPE,
        "sliding_window": 24,
        "tie_word_embeddings": True,
        "top_k_experts": None,
        "use_bidirectional_attention": None,
        "use_double_wide_mlp": True,
        "vocab_size": WORDS.vocab,
        "vocab_size_per_layer_input": WORDS.vocab,
        **words,
    }


def gemma4(folder: Path) -> Path:
    return build(folder, WORDS, text(), hub=scaled, scales=SCALES)


def inside(folder: Path, name: str, kind: str, **words: Any) -> Path:
    """The text under text_config."""
    inner = text(model_type=f"{kind}_text", **words)
    for key in ("architectures", "torch_dtype"):
        del inner[key]
    config = {"architectures": [name], "model_type": kind, "text_config": inner, "tie_word_embeddings": True}
    return build(folder, WORDS, config, hub=scaled, scales=SCALES)


def unified(folder: Path) -> Path:
    """As 12B: the text under text_config, keys of layers without a window are their values."""
    words = {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "moe_intermediate_size": None}
    words |= {"final_logit_softcapping": None, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0}
    inside(folder, "Gemma4UnifiedForConditionalGeneration", "gemma4_unified", **words)
    path = folder / "generation_config.json"
    said = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(said | {"suppress_tokens": [380, 381]}))
    return folder


CASES = {"": Case(gemma4), "all in one": Case(unified, allowed=NO_CAP)}
