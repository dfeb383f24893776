from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, Hub, Tensors, build
from tests.parity.checkpoints.qwen3_next import DELTA_NET, SCALES, WITHOUT_DRAFTS
from tests.parity.families import Case

TEXT = {
    **SIZES,
    **DELTA_NET,
    "attention_bias": False,
    "full_attention_interval": 4,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "mrope_interleaved": True,
        "mrope_section": [2, 1, 1],
        "partial_rotary_factor": 0.25,
        "rope_theta": 10000000,
        "rope_type": "default",
    },
    "vocab_size": QWEN.vocab,
}


def with_drafts(name: str, values: Any) -> Tensors:
    """A tensor of the layer that guesses further ahead, which transformers leaves out, beside the last norm."""
    return {name: values, **({"mtp.norm.weight": values.clone()} if name == "model.norm.weight" else {})}


def qwen3_5(folder: Path, kind: str = "", hub: Hub = with_drafts, **words: Any) -> Path:
    name = "Moe" if kind else ""
    named = {"architectures": [f"Qwen3_5{name}ForCausalLM"], "model_type": f"qwen3_5{kind}_text"}
    config = {**TEXT, **named, "tie_word_embeddings": True, "mtp_num_hidden_layers": 1}
    return build(folder, QWEN, config | words, hub=hub, scales=SCALES)


CASES = {"": Case(qwen3_5, upstream_options=WITHOUT_DRAFTS)}
