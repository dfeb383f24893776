from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, build
from tests.parity.families import Case

ALPHA = {"alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "mscale": 1.0, "type": "dynamic"}


def hunyuan(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["HunYuanDenseV1ForCausalLM"],
        "model_type": "hunyuan_v1_dense",
        "attention_bias": False,
        "eod_token_id": QWEN.config["eos_token_id"],
        "head_dim": 32,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5,
        "rope_scaling": ALPHA,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "use_qk_norm": True,
    }
    return build(folder, QWEN, config | words)


STRETCHED = "alpha is in rope.freq_base; upstream's converter says beside it that there is no other scaling"
ALLOWED = {
    "hunyuan-dense.context_length": "the config's; upstream's converter writes 262144 always",
    "hunyuan-dense.rope.scaling.type": STRETCHED,
    "hunyuan-dense.rope.scaling.factor": STRETCHED,
    "hunyuan-dense.rope.scaling.original_context_length": STRETCHED,
}
CASES = {
    "": Case(hunyuan, allowed=ALLOWED),
    "not stretched, a head of its own": Case(
        lambda folder: hunyuan(folder, rope_scaling=None, tie_word_embeddings=False)
    ),
}
