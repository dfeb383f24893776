from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests import tiny
from tests.parity.build import drawn_by_shape
from tests.parity.families import Case

VOCAB = 320
NO_CLASS = "transformers has no class for it: bytes are the proof"
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n\n{% endfor %}"
WORDS = (b"\n\n", b" the", b" of", b"ing", " ä".encode(), "…".encode(), b"it's", b'"it\'s"', b"\\n")
SCALES = {"embeddings.weight": 12, "bias": 4, "x_k": 12, "k_k": 12, "r_k": 8, "lora.2.weight": 8}
TOKENS = {
    "tokenizer.ggml.add_bos_token": "stated: none goes before a text by itself",
    "tokenizer.ggml.add_eos_token": "stated: none goes behind a text by itself",
}
HIDDEN, FFN, HEAD = 64, 96, 32


def write(folder: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """A checkpoint with RWKV's World tokenizer: all bytes, and some words."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [b"  ", b"   ", b"\t\t", b"\r\n"]  # the empty line is token 261, as it is in the real one
    tokens += WORDS
    lines = [f"{number} {_literal(token)} {len(token)}\n" for number, token in enumerate(tokens, 1)]
    (folder / "rwkv_vocab_v20230424.txt").write_text("".join(lines), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    whole = {"torch_dtype": "bfloat16", "vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 0, **config}
    (folder / "config.json").write_text(json.dumps(whole, indent=2))
    tiny.write_weights(folder, drawn_by_shape(shapes, SCALES), 1)
    return folder


def _literal(token: bytes) -> str:
    """As the real file has it: text where it is text."""
    try:
        return repr(token.decode())
    except UnicodeDecodeError:
        return repr(token)


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """fla's names."""
    square, vector = (HIDDEN, HIDDEN), (HIDDEN,)
    found: dict[str, tuple[int, ...]] = {
        "model.embeddings.weight": (VOCAB, HIDDEN),
        "lm_head.weight": (VOCAB, HIDDEN),
        **{f"model.norm.{kind}": vector for kind in ("weight", "bias")},
        **{f"model.layers.0.pre_norm.{kind}": vector for kind in ("weight", "bias")},
    }
    for i in range(layers):
        layer, attn = f"model.layers.{i}", f"model.layers.{i}.attn"
        found |= {f"{layer}.{norm}.{kind}": vector for norm in ("attn_norm", "ffn_norm") for kind in ("weight", "bias")}
        found |= {f"{attn}.g_norm.{kind}": vector for kind in ("weight", "bias")}
        found |= {f"{attn}.{x}_proj.weight": square for x in "rkvo"}
        found |= {f"{attn}.x_{x}": (1, 1, HIDDEN) for x in "rwkvag"}
        found |= {f"{attn}.k_k": vector, f"{attn}.k_a": vector, f"{attn}.r_k": (HIDDEN // HEAD, HEAD)}
        for name, rank in {"w": 24, "a": 16, **({"v": 12} if i else {}), "g": 40}.items():
            found |= {f"{attn}.{name}_lora.lora.0.weight": (rank, HIDDEN)}
            found |= {f"{attn}.{name}_lora.lora.2.weight": (HIDDEN, rank)}
            found |= {f"{attn}.{name}_lora.lora.2.bias": vector} if name != "g" else {}
        found |= {f"{layer}.ffn.x_k": vector, f"{layer}.ffn.key.weight": (FFN, HIDDEN)}
        found |= {f"{layer}.ffn.value.weight": (HIDDEN, FFN)}
    return found


def rwkv7(folder: Path, name: str = "RWKV7") -> Path:
    config = {
        "architectures": [f"{name}ForCausalLM"],
        "model_type": "rwkv7",
        "a_low_rank_dim": 16,
        "attn": None,
        "decay_low_rank_dim": 24,
        "gate_low_rank_dim": 40,
        "head_dim": HEAD,
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "norm_bias": True,
        "norm_eps": 1e-5,
        "norm_first": True,
        "num_hidden_layers": 2,
        "tie_word_embeddings": False,
        "v_low_rank_dim": 12,
        "value_dim": [HIDDEN, HIDDEN],
    }
    return write(folder, config, shapes(2))


CASES = {
    "": Case(rwkv7, allowed=TOKENS, no_logits=NO_CLASS),
    "older name": Case(lambda folder: rwkv7(folder, "Rwkv7"), allowed=TOKENS, no_logits=NO_CLASS),
}
