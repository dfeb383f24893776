from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, build
from tests.parity.families import Case


def mpt(folder: Path, **attention: Any) -> Path:
    config = {
        "architectures": ["MptForCausalLM"],
        "model_type": "mpt",
        "attn_config": {"alibi": True, "alibi_bias_max": 8, "clip_qkv": None} | attention,
        "d_model": 64,
        "expansion_ratio": 4,
        "layer_norm_epsilon": 1e-5,
        "logit_scale": None,
        "max_seq_len": 512,
        "n_heads": 4,
        "n_layers": 2,
        "no_bias": True,
    }
    return build(folder, QWEN, config, scales={"Wqkv.weight": 8})


def as_published(folder: Path, **attention: Any) -> Path:
    """MosaicML's own name for the class."""
    path = mpt(folder, **attention) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": ["MPTForCausalLM"]}))
    return folder


ALLOWED = {"general.file_type": "upstream's converter does not say it"}
CASES = {
    "": Case(as_published, allowed=ALLOWED),
    "clamped": Case(lambda folder: as_published(folder, clip_qkv=1.5), allowed=ALLOWED),
    "transformers' class": Case(mpt, no_parity="upstream's converter knows the class by MosaicML's name only"),
}
