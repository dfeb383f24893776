from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import Tensors
from tests.parity.checkpoints.qwen3_vl import qwen3_vl
from tests.parity.families import Case

EXPERTS = {
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 96,
    "norm_topk_prob": True,
    "num_experts": 8,
    "num_experts_per_tok": 2,
}


def published(name: str, values: Any) -> Tensors:
    """All experts in one tensor, inputs before outputs."""
    turned = name.endswith(("experts.gate_up_proj", "experts.down_proj"))
    return {name: values.transpose(1, 2) if turned else values}


def qwen3_vl_moe(folder: Path) -> Path:
    return qwen3_vl(folder, tied=False, kind="_moe", hub=published, **EXPERTS)


CASES = {"": Case(qwen3_vl_moe, image=(128, 160))}
