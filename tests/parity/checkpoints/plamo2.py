from __future__ import annotations

import json
from pathlib import Path

from tests import tiny
from tests.parity.build import drawn_by_shape
from tests.parity.checkpoints.rwkv7 import NO_CLASS
from tests.parity.families import Case

HIDDEN, FFN, HEAD, HEADS, KV = 64, 96, 16, 4, 2
SSM_HEADS, STATE, STEPS = 6, 16, 64
WORDS = ("the", "of", "ing", "語", " a", "  ")
CONTROL = ("<|plamo:unk|>", "<|plamo:bos|>", "<|plamo:eos|>", "<|plamo:pad|>", "<|plamo:op|>")
SCALES = {"embed_tokens.weight": 12, "conv1d.weight": 8, "A_log": 12, "dt_bias": 12, ".D": 12, "_weight": 12}
TOKENS = {
    "tokenizer.ggml.add_bos_token": "what the tokenizer's config says, which upstream leaves to llama.cpp",
    "tokenizer.ggml.add_eos_token": "what the tokenizer's config says, which upstream leaves to llama.cpp",
}


def tokenizer() -> list[list[object]]:
    """The lines of tokenizer.jsonl: what controls the model, all bytes, ASCII and some words."""
    kinds = ["UNKNOWN", *["CONTROL"] * (len(CONTROL) - 2), "NORMAL"]
    lines: list[list[object]] = [[text, 0.0, kind] for text, kind in zip(CONTROL, kinds, strict=True)]
    lines += [[f"<0x{byte:02X}>", 0.0, "BYTE"] for byte in range(256)]
    return lines + [[text, -1.5 - i / 8, "NORMAL"] for i, text in enumerate([*map(chr, range(32, 127)), *WORDS])]


def shapes(vocab: int, layers: int) -> dict[str, tuple[int, ...]]:
    inner = SSM_HEADS * HEAD
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for i in range(layers):
        layer, mixer = f"model.layers.layers.{i}", f"model.layers.layers.{i}.mixer"
        norms = ("pre_mixer_norm", "post_mixer_norm", "pre_mlp_norm", "post_mlp_norm")
        found |= {f"{layer}.{norm}.weight": (HIDDEN,) for norm in norms}
        found |= {f"{layer}.mlp.gate_up_proj.weight": (2 * FFN, HIDDEN), f"{layer}.mlp.down_proj.weight": (HIDDEN, FFN)}
        if i % 2:
            found |= {f"{mixer}.qkv_proj.weight": ((HEADS + 2 * KV) * HEAD, HIDDEN)}
            found |= {f"{mixer}.o_proj.weight": (HIDDEN, HEADS * HEAD)}
            found |= {f"{mixer}.q_weight": (HEADS, HEAD), f"{mixer}.k_weight": (KV, HEAD)}
            continue
        found |= {f"{mixer}.in_proj.weight": (2 * inner, HIDDEN), f"{mixer}.conv1d.weight": (inner, 1, 4)}
        found |= {f"{mixer}.bcdt_proj.weight": (STEPS + 2 * STATE, inner), f"{mixer}.dt_norm_weight": (STEPS,)}
        found |= {f"{mixer}.dt_proj.weight": (SSM_HEADS, STEPS), f"{mixer}.out_proj.weight": (HIDDEN, inner)}
        found |= {f"{mixer}.{name}": (SSM_HEADS,) for name in ("A_log", "D", "dt_bias")}
        found |= {f"{mixer}.{name}_norm_weight": (STATE,) for name in "BC"}
    return found


def plamo2(folder: Path, name: str = "Plamo2") -> Path:
    lines = tokenizer()
    config = {
        "architectures": [f"{name}ForCausalLM"],
        "model_type": "plamo2",
        "hidden_size": HIDDEN,
        "hidden_size_per_head": HEAD,
        "intermediate_size": FFN,
        "mamba_d_conv": 4,
        "mamba_d_state": STATE,
        "mamba_enabled": True,
        "mamba_num_heads": SSM_HEADS,
        "mamba_step": 2,
        "max_position_embeddings": 512,
        "num_attention_heads": HEADS,
        "num_hidden_layers": 2,
        "num_key_value_heads": KV,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "vocab_size": len(lines),
        "window_size": 2048,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    named = {f"{kind}_token": f"<|plamo:{kind}|>" for kind in ("unk", "bos", "eos", "pad")}
    (folder / "tokenizer_config.json").write_text(json.dumps({**named, "add_bos_token": True}))
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    tiny.write_weights(folder, drawn_by_shape(shapes(len(lines), 2), SCALES), 1)
    return folder


CASES = {
    "": Case(plamo2, allowed=TOKENS, no_logits=NO_CLASS),
    "other name": Case(lambda folder: plamo2(folder, "PLaMo2"), allowed=TOKENS, no_logits=NO_CLASS),
}
