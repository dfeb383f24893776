from __future__ import annotations

import json
from pathlib import Path

from tests import tiny
from tests.parity.build import QWEN, drawn_by_shape
from tests.parity.checkpoints.rwkv7 import NO_CLASS, SCALES
from tests.parity.families import Case

HIDDEN, FFN, KEYS, MIX, DECAY = 64, 96, 32, 16, 24


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """recursal's names."""
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (QWEN.vocab, HIDDEN),
        "lm_head.weight": (QWEN.vocab, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for i in range(layers):
        layer, attn = f"model.layers.{i}", f"model.layers.{i}.self_attn"
        found |= {f"{layer}.{norm}.weight": (HIDDEN,) for norm in ("input_layernorm", "post_attention_layernorm")}
        for name, rows in {"q": HIDDEN, "k": KEYS, "v": KEYS}.items():
            found |= {f"{attn}.{name}_proj.weight": (rows, HIDDEN), f"{attn}.{name}_proj.bias": (rows,)}
        found |= {f"{attn}.o_proj.weight": (HIDDEN, HIDDEN), f"{attn}.gate.weight": (HIDDEN, HIDDEN)}
        found |= {f"{attn}.time_maa_{x}": (1, 1, HIDDEN) for x in "xrkvwg"}
        found |= {f"{attn}.time_maa_w1": (HIDDEN, 5 * MIX), f"{attn}.time_maa_w2": (5, MIX, HIDDEN)}
        found |= {f"{attn}.time_decay_w1": (HIDDEN, DECAY), f"{attn}.time_decay_w2": (DECAY, HIDDEN)}
        found |= {f"{attn}.time_decay": (1, 1, HIDDEN), f"{layer}.mlp.down_proj.weight": (HIDDEN, FFN)}
        found |= {f"{layer}.mlp.{name}_proj.weight": (FFN, HIDDEN) for name in ("gate", "up")}
    return found


def rwkv6qwen2(folder: Path) -> Path:
    config = {
        **QWEN.config,
        "architectures": ["RWKV6Qwen2ForCausalLM"],
        "model_type": "rwkv6qwen2",
        "attention_bias": True,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "lora_rank_decay": DECAY,
        "lora_rank_tokenshift": MIX,
        "max_position_embeddings": 512,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": QWEN.vocab,
    }
    tiny._save_tokenizer(folder, QWEN.tokenizer(), dict(QWEN.tokenizer_config))
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    tiny.write_weights(folder, drawn_by_shape(shapes(2), SCALES), 1)
    return folder


CASES = {"": Case(rwkv6qwen2, no_logits=NO_CLASS)}
