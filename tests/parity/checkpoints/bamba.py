from __future__ import annotations

from pathlib import Path

from tests.parity.build import QWEN, SIZES, build
from tests.parity.checkpoints.granite_hybrid import MAMBA, SCALES
from tests.parity.families import Case

WHOLE_HEADS = (
    "upstream deals out the rows of whole heads, though half of each turns: logits are then no longer the source's"
)


def bamba(folder: Path) -> Path:
    config = {
        **SIZES,
        **MAMBA,
        "architectures": ["BambaForCausalLM"],
        "model_type": "bamba",
        "attn_layer_indices": [1],
        "attn_rotary_emb": 8,
        "hidden_act": "silu",
        "mlp_bias": False,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    return build(folder, QWEN, config, scales=SCALES)


CASES = {"": Case(bamba, allowed={f"tensor blk.1.attn_{one}.weight": WHOLE_HEADS for one in "qk"})}
