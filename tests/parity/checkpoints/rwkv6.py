from __future__ import annotations

from pathlib import Path

from tests.parity.checkpoints.rwkv7 import FFN, HEAD, HIDDEN, NO_CLASS, TOKENS, VOCAB, write
from tests.parity.families import Case


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """RWKV/v6-Finch's names."""
    square, vector = (HIDDEN, HIDDEN), (HIDDEN,)
    found: dict[str, tuple[int, ...]] = {
        "rwkv.embeddings.weight": (VOCAB, HIDDEN),
        "head.weight": (VOCAB, HIDDEN),
        **{f"rwkv.ln_out.{kind}": vector for kind in ("weight", "bias")},
        **{f"rwkv.blocks.0.pre_ln.{kind}": vector for kind in ("weight", "bias")},
    }
    for i in range(layers):
        block = f"rwkv.blocks.{i}"
        attn, ffn = f"{block}.attention", f"{block}.feed_forward"
        norms = (f"{block}.ln1", f"{block}.ln2", f"{attn}.ln_x")
        found |= {f"{norm}.{kind}": vector for norm in norms for kind in ("weight", "bias")}
        found |= {f"{attn}.time_maa_{x}": (1, 1, HIDDEN) for x in "xwkvrg"}
        found |= {f"{attn}.time_maa_w1": (HIDDEN, 160), f"{attn}.time_maa_w2": (5, 32, HIDDEN)}
        found |= {f"{attn}.time_decay": (1, 1, HIDDEN), f"{attn}.time_faaaa": (HIDDEN // HEAD, HEAD)}
        found |= {f"{attn}.time_decay_w1": (HIDDEN, 64), f"{attn}.time_decay_w2": (64, HIDDEN)}
        found |= {f"{attn}.{x}.weight": square for x in ("receptance", "key", "value", "gate", "output")}
        found |= {f"{ffn}.time_maa_{x}": (1, 1, HIDDEN) for x in "kr"}
        found |= {f"{ffn}.key.weight": (FFN, HIDDEN), f"{ffn}.receptance.weight": square}
        found |= {f"{ffn}.value.weight": (HIDDEN, FFN)}
    return found


def rwkv6(folder: Path) -> Path:
    config = {
        "architectures": ["Rwkv6ForCausalLM"],
        "model_type": "rwkv6",
        "attention_hidden_size": HIDDEN,
        "head_size": HEAD,
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "layer_norm_epsilon": 1e-5,
        "num_hidden_layers": 3,
        "rescale_every": 2,
        "tie_word_embeddings": False,
    }
    return write(folder, config, shapes(3))


CASES = {"": Case(rwkv6, allowed=TOKENS, no_logits=NO_CLASS)}
