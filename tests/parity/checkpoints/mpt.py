from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, build
from tests.parity.families import Case


def mpt(folder: Path, attention: dict[str, Any] | None = None, **words: Any) -> Path:
    config = {
        "architectures": ["MptForCausalLM"],
        "model_type": "mpt",
        "torch_dtype": "bfloat16",
        "attn_config": {
            "alibi": True,
            "alibi_bias_max": 8,
            "attn_impl": "torch",
            "attn_type": "multihead_attention",
            "attn_uses_sequence_id": False,
            "clip_qkv": None,
            "prefix_lm": False,
            "qk_ln": False,
            "softmax_scale": None,
            **(attention or {}),
        },
        "d_model": 64,
        "expansion_ratio": 4,
        "max_seq_len": 512,
        "n_heads": 4,
        "n_layers": 2,
        "no_bias": True,
    }
    return build(folder, QWEN, config | words, scales={"Wqkv.weight": 6, "wte.weight": 12})


def published(folder: Path, attention: dict[str, Any] | None = None, **words: Any) -> Path:
    """MosaicML's files name the class that came with them."""
    path = mpt(folder, attention, **words) / "config.json"
    path.write_text(path.read_text().replace("MptForCausalLM", "MPTForCausalLM"))
    return folder


ALLOWED = {"general.file_type": "upstream leaves it out of these files"}
CASES = {
    "": Case(published, allowed=ALLOWED),
    "clipped": Case(lambda folder: published(folder, {"clip_qkv": 2.0}), allowed=ALLOWED),
    "6 heads": Case(lambda folder: published(folder, d_model=96, n_heads=6), allowed=ALLOWED),
    "transformers' class": Case(mpt, no_parity="upstream's converter knows the class by MosaicML's name only"),
}
