"""The process that quantizes, `convert.child.run(["convert.formats.compressed.worker", "REQUEST.json"])`.

Its result says what it calibrated on: how many rows and tokens, and their hash.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from convert import messages
from convert.calibration.rows import Description, Row, digest, make_rows
from convert.formats.compressed.scheme import Scheme

if TYPE_CHECKING:
    from gptqmodel import QuantizeConfig
    from torch import dtype

MADE = "made"  # the folder gptqmodel saves into

# gptqmodel's Phi-3 leaves the norms out of its tree; AWQ then finds nothing to put its factors into and gives up.
PHI3_TREE = [
    "model",
    "layers",
    "#",
    {
        "input_layernorm": ("input_layernorm:!",),
        "self_attn": ("qkv_proj:0", "o_proj:1"),
        "post_attention_layernorm": ("post_attention_layernorm:!",),
        "mlp": ("gate_proj:0:in=x", "up_proj:0:in=x", "down_proj:1"),
    },
]


def main(request_file: str) -> None:
    """Do what the request says; the weights come to lie in `made`, beside it."""
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    scheme, asked = Scheme(**request["scheme"]), Description(**request["calibration"])
    from validate.runtimes._folder import CheckpointFolder
    from validate.runtimes._telemetry import refuse_telemetry

    refuse_telemetry()

    source, home = Path(request["source"]), Path(request_file).parent
    rows = make_rows(CheckpointFolder(source), asked)
    tokens = sum(row["input_ids"].size for row in rows)
    calibrated_on = {"rows": len(rows), "tokens": tokens, "sha256": digest(rows)}
    parent = messages.parent()
    parent.note(f"calibrating on {len(rows)} rows, {tokens} tokens")
    if len(rows) < asked.samples:
        parent.warn(f"the calibration gives {len(rows)} rows, fewer than the {asked.samples} asked for")
    import torch

    torch.manual_seed(asked.seed)
    torch.set_num_threads(request["threads"])
    _quantize(source, home, scheme, rows)
    parent.result(calibrated_on)


def _quantize(source: Path, home: Path, scheme: Scheme, rows: Sequence[Row]) -> None:
    import torch
    from gptqmodel import BACKEND, GPTQModel

    _mend_definitions()
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    kernel = BACKEND.TORCH_AWQ if scheme.method == "awq" else BACKEND.TORCH
    dtype = _dtype(torch, source, scheme, device)
    model = GPTQModel.load(str(source), _config(scheme, home), device=device, backend=kernel, dtype=dtype)
    batches = [{name: torch.from_numpy(array) for name, array in row.items()} for row in rows]
    model.prepare_dataset = lambda *_, **__: batches  # tokenized here: the library would want a torchvision processor
    model.layer_callback = lambda layer_idx, submodule_finalized, **_: (
        messages.parent().advance(1) if submodule_finalized else None
    )
    # its own tokenizer step asks for lists of ids and only counts them here
    model.quantize([row["input_ids"][0].tolist() for row in rows], batch_size=1, backend=kernel)
    model.save(str(home / MADE))


def _dtype(torch: ModuleType, source: Path, scheme: Scheme, device: str) -> dtype:
    """What the model computes in while it is quantized.

    float32 on a CPU; half there is neither faster nor better. gptqmodel's AWQ packs from 16 bits only.
    """
    if scheme.method == "gptq" and device == "cpu":
        return torch.float32
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    stored = config.get("dtype") or config.get("torch_dtype")
    return torch.bfloat16 if stored == "bfloat16" else torch.float16


def _config(scheme: Scheme, home: Path) -> QuantizeConfig:
    from gptqmodel import QuantizeConfig

    words: dict[str, object] = {
        "bits": scheme.bits,
        "group_size": scheme.group_size,
        "sym": scheme.symmetric,
        "offload_to_disk": True,  # a layer at a time in memory
        "offload_to_disk_path": str(home / "offload"),
    }
    if scheme.method == "awq":
        return QuantizeConfig(**words, quant_method="awq", format="gemm")
    aware = scheme.group_size > 0 and not scheme.desc_act  # the better order within a group that is free to run
    return QuantizeConfig(**words, desc_act=scheme.desc_act, damp_percent=scheme.damp, act_group_aware=aware)


def _mend_definitions() -> None:
    """Two of gptqmodel's model definitions, as they have to be here."""
    from gptqmodel.models.definitions.base_qwen2_vl import BaseQwen2VLGPTQ
    from gptqmodel.models.definitions.phi3 import Phi3QModel

    BaseQwen2VLGPTQ.require_load_processor = False  # AutoProcessor wants torchvision for its video half
    Phi3QModel.module_tree = PHI3_TREE
    Phi3QModel.awq_scale_optimize_shape_dependent_modules = ["self_attn.o_proj"]


if __name__ == "__main__":
    main(sys.argv[1])
