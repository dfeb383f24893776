from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, Tensors, build, published, renamed
from tests.parity.families import Case


def olmo(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["OlmoForCausalLM"],
        "model_type": "olmo",
        "hidden_act": "silu",
        "rope_theta": 10000.0,
        "attention_bias": False,
        "clip_qkv": None,
        "tie_word_embeddings": False,
    }
    return build(folder, QWEN, config | words)


def of_ai2(folder: Path) -> Path:
    """As AI2's own code saved it."""
    config = {
        "architectures": ["OLMoForCausalLM"],
        "model_type": "hf_olmo",
        "activation_type": "swiglu",
        "alibi": False,
        "attention_layer_norm": False,
        "block_type": "sequential",
        "clip_qkv": None,
        "d_model": 64,
        "embedding_size": QWEN.vocab,
        "include_bias": False,
        "layer_norm_type": "default",
        "layer_norm_with_affine": False,
        "max_sequence_length": 512,
        "mlp_hidden_size": 256,
        "multi_query_attention": False,
        "n_heads": 4,
        "n_kv_heads": 2,
        "n_layers": 2,
        "rope": True,
        "weight_tying": False,
    }
    return published(olmo(folder), config, together)


def together(tensors: Tensors) -> Tensors:
    """q, k and v in one matrix, up and gate in another, by AI2's names."""
    import torch

    made = dict(tensors)
    for layer in range(SIZES["num_hidden_layers"]):
        start = f"model.layers.{layer}"
        parts = [made.pop(f"{start}.self_attn.{one}_proj.weight") for one in "qkv"]
        made[f"{start}.att_proj.weight"] = torch.cat(parts)
        made[f"{start}.ff_proj.weight"] = torch.cat(
            [made.pop(f"{start}.mlp.{one}_proj.weight") for one in ("up", "gate")]
        )
    names = (
        ("self_attn.o_proj", "attn_out"),
        ("mlp.down_proj", "ff_out"),
        ("model.layers", "model.transformer.blocks"),
    )
    ends = (("model.embed_tokens", "model.transformer.wte"), ("lm_head", "model.transformer.ff_out"))
    return renamed(*names, *ends)(made)


NOT_THEIRS = "upstream's converter knows transformers' names of the tensors only"

CASES = {
    "": Case(olmo),
    "as AI2 saved it": Case(of_ai2, equal=olmo, no_parity=NOT_THEIRS),
    "clipped, tied": Case(lambda folder: olmo(folder, clip_qkv=2.0, tie_word_embeddings=True)),
}
