from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.fixtures_gguf import edit_weights
from tests.parity.build import SIZES, Tensors, published, renamed
from tests.parity.checkpoints.deepseek2 import BY_BYTES
from tests.parity.checkpoints.hunyuan_v1_dense import hunyuan
from tests.parity.families import Case

EPSILON = 1.1920928955078125e-07
RENAMES = (
    ("model.layers.", "model.blocks."),
    ("model.embed_tokens", "model.embed"),
    ("self_attn.q_proj", "attn.attn_query"),
    ("self_attn.k_proj", "attn.attn_key"),
    ("self_attn.v_proj", "attn.attn_value"),
    ("self_attn.o_proj", "attn.attn_resid"),
    ("mlp.gate_proj", "mlp.mlp_gate"),
    ("mlp.up_proj", "mlp.mlp_linear"),
    ("mlp.down_proj", "mlp.mlp_resid"),
)
HEADS = (1.5, 0.75, 2.0, 1.25)
ATTENTION, MLP, SKIP, LOGITS = 1.5, 0.75, 0.5, 0.25  # halves and quarters: the same in bfloat16


def equal(folder: Path) -> Path:
    """A Hunyuan, whose norms come behind RoPE too, without weights of norms."""

    def plain(tensors: Tensors) -> None:
        for name in tensors:
            if "norm" in name:
                tensors[name] = tensors[name] * 0 + 1

    made = hunyuan(
        folder, rope_scaling=None, max_position_embeddings=512, rms_norm_eps=EPSILON, tie_word_embeddings=False
    )
    edit_weights(made, plain)
    return made


def with_gains(model: Any) -> None:
    """What Talkie multiplies, and the embedding that every layer adds once more."""
    import torch

    def after(module: Any, change: Any) -> None:
        module.register_forward_hook(lambda module, arguments, output: change(output))

    seen: list[Any] = []

    def embed(values: Any) -> Any:
        seen[:] = [values * torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + EPSILON)]
        return seen[0]

    after(model.model.embed_tokens, embed)
    after(model.lm_head, lambda logits: logits * LOGITS)
    for layer in model.model.layers:
        after(layer, lambda output: output + SKIP * seen[0])
        after(layer.self_attn.o_proj, lambda output: output * ATTENTION)
        after(layer.mlp.down_proj, lambda output: output * MLP)
        after(layer.self_attn.query_layernorm, lambda queries: queries * torch.tensor(HEADS)[:, None, None])


def talkie(folder: Path) -> Path:
    config = {
        **SIZES,
        "architectures": ["TalkieForCausalLM"],
        "model_type": "talkie",
        "head_dim": 32,
        "hidden_act": "silu",
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    return published(equal(folder), config, gained)


def gained(tensors: Tensors) -> Tensors:
    """Its names, its gains, and heads that turn the other way round."""
    import torch

    made = {name: values for name, values in tensors.items() if "norm" not in name}
    for name, values in made.items():
        if "q_proj" in name or "k_proj" in name:
            first, second = values.reshape(-1, 2, 16, 64).unbind(1)
            made[name] = torch.stack([first, -second], 1).reshape(values.shape)
    for layer in range(2):
        start = f"model.layers.{layer}"
        made[f"{start}.attn.head_gain.head_g"] = torch.tensor(HEADS)
        for name, gain in (("attn_gain", ATTENTION), ("mlp_gain", MLP), ("embed_skip", SKIP)):
            made[f"{start}.{name}.a_g"] = torch.tensor([gain])
    made["lm_head_gain.w_g"] = torch.tensor([LOGITS])
    return renamed(*RENAMES)(made)


CASES = {"": Case(talkie, equal=equal, as_source=with_gains, allowed=BY_BYTES)}
