from __future__ import annotations

from pathlib import Path

from tests.parity.build import LLAMA, SHARP, SIZES, Tensors, build, published, renamed
from tests.parity.families import Case
from tests.parity.layouts import edited, of_layer

HEAD = 16
HEADS, KV_HEADS, WIDTHS = (3, 4), (1, 2), (96, 128)  # of each layer
NAMES = (
    ("model.layers", "transformer.layers"),
    ("model.embed_tokens", "transformer.token_embeddings"),
    ("model.norm", "transformer.norm"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.o_proj", "attn.out_proj"),
    ("self_attn", "attn"),
    ("mlp.down_proj", "ffn.proj_2"),
)


def as_qwen3(folder: Path) -> Path:
    """As many heads and as wide MLPs in all layers: what the first one has less of does nothing."""
    config = {
        **SIZES,
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "head_dim": HEAD,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000,
        "tie_word_embeddings": True,
    }
    return edited(build(folder, LLAMA, config, scales={**SHARP, "q_norm.weight": 3}), padded)


def padded(tensors: Tensors) -> None:
    """One head of keys for three of queries is two equal ones, of which one serves a query more, that is not heard."""
    first = of_layer(tensors, 0)
    for name in ("k_proj", "v_proj"):
        first[f"self_attn.{name}.weight"][HEAD:] = first[f"self_attn.{name}.weight"][:HEAD].clone()
    first["self_attn.o_proj.weight"][:, HEADS[0] * HEAD :] = 0
    first["mlp.down_proj.weight"][:, WIDTHS[0] :] = 0


def together(tensors: Tensors) -> Tensors:
    """Without what does nothing; q, k and v, and gate and up, in one matrix each."""
    import torch

    made = dict(tensors)
    for layer, (heads, kv_heads, width) in enumerate(zip(HEADS, KV_HEADS, WIDTHS, strict=True)):
        attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
        numbers = {"q": heads, "k": kv_heads, "v": kv_heads}
        parts = [made.pop(f"{attention}.{one}_proj.weight")[: n * HEAD] for one, n in numbers.items()]
        made[f"{attention}.qkv_proj.weight"] = torch.cat(parts)
        made[f"{attention}.o_proj.weight"] = made[f"{attention}.o_proj.weight"][:, : heads * HEAD]
        halves = [made.pop(f"{mlp}.{one}_proj.weight")[:width] for one in ("gate", "up")]
        made[f"model.layers.{layer}.ffn.proj_1.weight"] = torch.cat(halves)
        made[f"{mlp}.down_proj.weight"] = made[f"{mlp}.down_proj.weight"][:, :width]
    return renamed(*NAMES)(made)


def openelm(folder: Path) -> Path:
    config = {
        "architectures": ["OpenELMForCausalLM"],
        "model_type": "openelm",
        "activation_fn_name": "swish",
        "ffn_dim_divisor": 32,
        "ffn_multipliers": [1.5, 2.0],
        "ffn_with_glu": True,
        "head_dim": HEAD,
        "max_context_length": 512,
        "model_dim": 64,
        "normalize_qk_projections": True,
        "num_kv_heads": list(KV_HEADS),
        "num_query_heads": list(HEADS),
        "num_transformer_layers": 2,
        "rope_freq_constant": 10000,
        "share_input_output_layers": True,
    }
    return published(as_qwen3(folder), config, together)


CASES = {"": Case(openelm, equal=as_qwen3)}
