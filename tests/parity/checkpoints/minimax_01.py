from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from tests.fixtures_gguf import edit_weights
from tests.parity.build import QWEN, SIZES, Tensors, build, experts_apart, published
from tests.parity.checkpoints.qwen3_next import SCALES
from tests.parity.families import Case

ALPHAS = ("layernorm_full_attention", "layernorm_linear_attention", "layernorm_mlp")
HUB = {
    **SIZES,
    "attn_type_list": [0, 1, 0],
    "head_dim": 16,
    "hidden_act": "silu",
    "num_experts_per_tok": 2,
    "num_hidden_layers": 3,
    "num_local_experts": 6,
    "postnorm": True,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000000,
    "rotary_dim": 16,
    "shared_intermediate_size": 0,
    "tie_word_embeddings": False,
    **{f"{name}_alpha": 3.5 for name in ALPHAS},
    **{f"{name}_beta": 1.0 for name in ALPHAS},
}
ALLOWED = {
    "minimax-01.attention.recurrent_layers": "upstream leaves llama.cpp to take every eighth layer for softmax",
    "tokenizer.chat_template": "upstream writes one of its own, whatever the checkpoint has",
}
RATES = ("slope_rate", "query_decay", "key_decay", "diagonal_decay")
NO_LAYOUT = "transformers' own class is none of upstream's"


def without_rates(tensors: Tensors) -> Tensors:
    return {name: values for name, values in tensors.items() if not name.endswith(RATES)}


def apart(name: str, values: Any) -> Tensors:
    """As on the hub: the experts apart."""
    if any(word in name for word in (".experts.", "mlp.gate.")):
        name = name.replace(".mlp.", ".block_sparse_moe.")
    return experts_apart(name, values, ("w1", "w3", "w2"))


def in_transformers(folder: Path) -> Path:
    config = {
        **{key: value for key, value in HUB.items() if key not in ("attn_type_list", "rotary_dim", "postnorm")},
        "architectures": ["MiniMaxForCausalLM"],
        "model_type": "minimax",
        "block_size": 32,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        **{f"{part}_alpha_factor": 3.5 for part in ("full_attn", "linear_attn", "mlp")},
        **{f"{part}_beta_factor": 1 for part in ("full_attn", "linear_attn", "mlp")},
    }
    build(folder, QWEN, config, hub=apart, scales={**SCALES, "qkv_proj.weight": 4, "output_gate.weight": 8})
    edit_weights(folder, lambda tensors: tensors.update(rates(folder)))
    return folder


def rates(folder: Path) -> Tensors:
    """How fast the heads forget, which transformers saves as it computes it."""
    import transformers

    model = transformers.MiniMaxForCausalLM(transformers.AutoConfig.from_pretrained(folder))
    return {name: values.clone() for name, values in model.named_buffers() if name.endswith(RATES)}


def on_the_hub(folder: Path, name: str = "MiniMaxText01") -> Path:
    """Its config, and an index beside its file, without which upstream reads no embedding."""
    named = {"architectures": [f"{name}ForCausalLM"], "model_type": "minimax_text_01"}
    published(in_transformers(folder), {**HUB, **named}, without_rates)
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = dict.fromkeys(file.keys(), "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


CASES = {
    "": Case(on_the_hub, allowed=ALLOWED, equal=in_transformers),
    "M1": Case(lambda folder: on_the_hub(folder, "MiniMaxM1"), allowed=ALLOWED, equal=in_transformers),
    "of transformers": Case(in_transformers, no_parity=NO_LAYOUT),
}
