"""Checkpoints as trainers leave them: DeepSpeed's by its layout, torch's by torch itself in two processes."""

from __future__ import annotations

import math
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DISTCP = """
import sys, torch, torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemWriter, save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
folder, out, rank, store = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=2)
mesh = init_device_mesh("cpu", (2,))
state = {}
for name, tensor in load_file(f"{folder}/model.safetensors").items():
    axis = 1 if name.endswith("down_proj.weight") else 0
    whole = "norm" in name
    state[f"model.{name}"] = tensor if whole else distribute_tensor(tensor, mesh, [Shard(axis)])
state["optim.step"] = torch.tensor(3.0)
state["optim.state.model.norm.weight.exp_avg"] = torch.ones(64)
save(state, storage_writer=FileSystemWriter(out))
dist.destroy_process_group()
"""


@contextmanager
def a_trainers_class() -> Iterator[Any]:
    """A class of DeepSpeed's, while its objects are saved; nobody who reads them has it."""
    name = "deepspeed.runtime.fp16.loss_scaler"
    made = {part: types.ModuleType(part) for part in (*_parents(name), name)}
    scaler = type("LossScaler", (), {"__module__": name})
    made[name].LossScaler = scaler  # type: ignore[attr-defined]
    sys.modules |= made
    try:
        yield scaler
    finally:
        for part in made:
            del sys.modules[part]


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def zero(folder: Path, tensors: Mapping[str, Tensor], stage: int, ranks: int = 3, frozen: str = "none") -> None:
    """Write `tensors` as DeepSpeed would with so many ranks, in two groups; those called `frozen` are not trained."""
    home = folder / "global_step7"
    home.mkdir(parents=True)
    (folder / "latest").write_text("global_step7")
    names = [name for name in tensors if frozen not in name]
    groups = [OrderedDict((n, tensors[n]) for n in part) for part in (names[::2], names[1::2])]
    kept = OrderedDict((n, tensors[n]) for n in tensors if frozen in n)
    flats = _second(groups, ranks) if stage < 3 else _third(groups, ranks)
    word = "single_partition_of_fp32_groups" if stage < 3 else "fp32_flat_groups"
    with a_trainers_class() as scaler:
        for rank in range(ranks):
            state = {"zero_stage": stage, "partition_count": ranks, word: flats[rank], "loss_scaler": scaler()}
            name = f"{'bf16_' if stage == 1 else ''}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
            torch.save({"optimizer_state_dict": state, "ds_version": "0.17.0"}, home / name)
            if rank and stage < 3:
                continue
            fragments = {n: _cut(t.float(), ranks)[rank] if stage == 3 else t.float() for n, t in kept.items()}
            model = {
                "module": {"a.buffer": torch.arange(4)},
                "buffer_names": ["a.buffer"],
                "param_shapes": [OrderedDict((n, t.shape) for n, t in group.items()) for group in groups],
                "frozen_param_shapes": OrderedDict((n, t.shape) for n, t in kept.items()),
                "frozen_param_fragments": OrderedDict(fragments),
                "shared_params": {},
            }
            own = f"zero_pp_rank_{rank}_" if stage == 3 else ""
            torch.save(model, home / f"{own}mp_rank_00_model_states.pt")


def _second(groups: list[Any], ranks: int) -> list[list[Tensor]]:
    """A group's parameters in a row, cut evenly."""
    parts = []
    for group in groups:
        flat = torch.cat([t.float().reshape(-1) for t in group.values()])
        parts.append(_cut(flat, ranks))
    return [[part[rank] for part in parts] for rank in range(ranks)]


def _third(groups: list[Any], ranks: int) -> list[list[Tensor]]:
    """Every parameter cut evenly."""
    every = [_cut(t.float(), ranks) for group in groups for t in group.values()]
    flats = [torch.cat([cut[rank] for cut in every]) for rank in range(ranks)]
    return [list(flat.split(5000)) for flat in flats]


def _cut(tensor: Tensor, ranks: int) -> list[Tensor]:
    flat = tensor.reshape(-1)
    each = math.ceil(flat.numel() / ranks)
    padded = torch.cat([flat, torch.zeros(each * ranks - flat.numel())])
    return [part.clone() for part in padded.split(each)]
