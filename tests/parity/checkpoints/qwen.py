from __future__ import annotations

from pathlib import Path

from tests import tiny
from tests.parity.build import Tensors, published, renamed, sharpened
from tests.parity.families import Case

RENAMES = (
    ("model.layers.", "transformer.h."),
    ("model.embed_tokens", "transformer.wte"),
    ("model.norm", "transformer.ln_f"),
    ("input_layernorm", "ln_1"),
    ("post_attention_layernorm", "ln_2"),
    ("self_attn.o_proj", "attn.c_proj"),
    ("mlp.up_proj", "mlp.w1"),
    ("mlp.gate_proj", "mlp.w2"),
    ("mlp.down_proj", "mlp.c_proj"),
)


def equal(folder: Path) -> Path:
    return sharpened(tiny.tiny_qwen2(folder, kv_heads=4))


def qwen(folder: Path) -> Path:
    config = {
        "architectures": ["QWenLMHeadModel"],
        "model_type": "qwen",
        "hidden_size": 64,
        "intermediate_size": 256,
        "kv_channels": 16,
        "layer_norm_epsilon": 1e-6,
        "max_position_embeddings": 512,
        "no_bias": True,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "rotary_emb_base": 1000000,
        "rotary_pct": 1.0,
        "scale_attn_weights": True,
        "seq_length": 256,
        "tie_word_embeddings": False,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
    }
    return published(equal(folder), config, packed)


def packed(tensors: Tensors) -> Tensors:
    import torch

    for name in [name for name in tensors if "q_proj" in name]:
        parts = [tensors.pop(name.replace("q_proj", f"{which}_proj")) for which in "qkv"]
        tensors[name.replace("self_attn.q_proj", "attn.c_attn")] = torch.cat(parts)
    return renamed(*RENAMES)(tensors)


ALLOWED = {
    "qwen.attention.layer_norm_epsilon": "upstream takes the config at its word; llama.cpp wants the RMS norm's",
    "qwen.attention.layer_norm_rms_epsilon": "upstream takes the config at its word; llama.cpp wants the RMS norm's",
}
CASES = {"": Case(qwen, equal=equal, allowed=ALLOWED)}
