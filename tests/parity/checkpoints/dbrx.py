from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, build, same
from tests.parity.families import Case

SCALES = {"Wqkv.weight": 12, "wte.weight": 12, "router.layer.weight": 8, "mlp.w2": 4}


def dbrx(folder: Path, **words: Any) -> Path:
    config = {
        "architectures": ["DbrxForCausalLM"],
        "model_type": "dbrx",
        "d_model": 64,
        "n_heads": 4,
        "n_layers": 2,
        "max_seq_len": 512,
        "attn_config": {"clip_qkv": 3.0, "kv_n_heads": 2, "rope_theta": 10000},
        "ffn_config": {
            "ffn_hidden_size": 96,
            "moe_num_experts": 6,
            "moe_top_k": 2,
            "moe_normalize_expert_weights": 1.0,
            "ffn_act_fn": {"name": "silu"},
        },
        "tie_word_embeddings": False,
    }
    return build(folder, QWEN, config | words, hub=same, scales=SCALES)


ROUTER = "stays float32, as in every other family; upstream lets it be quantized"
CASES = {"": Case(dbrx, allowed={f"blk.{i}.ffn_gate_inp.weight": ROUTER for i in range(2)})}
