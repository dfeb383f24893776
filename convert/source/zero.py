"""DeepSpeed's checkpoints (ZeRO 1 to 3): float32 weights, cut up among the ranks of a training, put together again.

    global_step10/mp_rank_00_model_states.pt                   param_shapes, buffers, what is frozen (ZeRO 1, 2)
    global_step10/zero_pp_rank_0_mp_rank_00_model_states.pt    the same, one a rank (ZeRO 3)
    global_step10/[bf16_]zero_pp_rank_0_mp_rank_00_optim_states.pt   a rank's part of the weights

ZeRO 1 and 2: the ranks' parts of a group, one after the other, are its parameters, one after the other. ZeRO 3: every
parameter is cut into as many equal parts as there are ranks. Nothing of DeepSpeed runs: what it wrote of its own
objects is passed over. Source: DeepSpeed, utils/zero_to_fp32.py.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from convert.errors import InputError
from convert.source.checkpoint import LazyTensor
from convert.source.names import plain_name, unused
from convert.source.pickled import as_lazy
from convert.source.pieces import Piece, flat_tensor
from convert.source.untrusted import shown

if TYPE_CHECKING:
    import numpy as np
    import torch

LATEST = "latest"
OPTIMIZER = re.compile(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")
MODEL = re.compile(r"(?:zero_pp_rank_(\d+)_)?mp_rank_(\d+)_model_states\.pt")
PASSED_OVER = ("deepspeed.", "argparse.", "transformers.", "accelerate.")
"""Whose objects may stand in such files beside tensors; a stand-in takes their place."""
WANTED = "a checkpoint as DeepSpeed writes it"


def home_of(folder: Path) -> Path | None:
    """The folder with the ranks' files; None where there is none."""
    named = folder / LATEST
    places = [folder]
    if named.is_file() and named.stat().st_size < 200:
        tag = named.read_text(encoding="utf-8", errors="replace").strip()
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", tag):
            places.insert(0, folder / tag)
    return next((place for place in places if any(map(OPTIMIZER.fullmatch, _names(place)))), None)


def files_of(home: Path) -> list[Path]:
    """The files of every rank."""
    return [home / name for name in _names(home) if OPTIMIZER.fullmatch(name) or MODEL.fullmatch(name)]


def tensors_of(home: Path) -> dict[str, LazyTensor]:
    """The model's tensors in float32, by their plain names. Raises InputError."""
    shards = sorted((int(m[1]), m[0]) for n in _names(home) if (m := OPTIMIZER.fullmatch(n)))
    states = sorted((int(m[1] or 0), m[0]) for n in _names(home) if (m := MODEL.fullmatch(n)))
    if any(int(m[2]) for n in _names(home) if (m := OPTIMIZER.fullmatch(n))):
        raise InputError(str(home), "was trained with tensor parallelism", "ZeRO alone", "save it with the trainer")
    if [rank for rank, _ in shards] != list(range(len(shards))) or not states:
        raise InputError(str(home), f"has {len(shards)} ranks' files and {len(states)} of the model", WANTED)
    optimizers = [_part(_load(home / name), "optimizer_state_dict", home / name) for _, name in shards]
    models = [_load(home / name) for _, name in states]
    found = _Zero(home, optimizers, models).tensors()
    made: dict[str, LazyTensor] = {}
    for tensor in found:
        plain = plain_name(tensor.name)
        if not unused(plain) and plain not in made:
            made[plain] = LazyTensor(plain, tensor.shape, tensor.dtype, tensor.load, tensor.file, rows=tensor.rows)
    return made


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


class _Passed:
    """Stands for an object of the trainer's."""

    def __init__(self, *arguments: object, **words: object) -> None:
        del arguments, words

    def __setstate__(self, state: object) -> None:
        del state


def _load(path: Path) -> Mapping[str, object]:
    """A rank's file, its tensors mapped, by torch's interpreter for weights alone."""
    import torch

    try:
        with warnings.catch_warnings(action="ignore"):
            strange = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            unknown = [name for name in strange if not name.startswith(PASSED_OVER)]
            if unknown:
                raise InputError(
                    str(path), f"wants {unknown[0]}", "tensors, and objects of DeepSpeed", "do not trust it"
                )
            stands: list[object] = [(type("Passed", (_Passed,), {}), name) for name in strange]
            with torch.serialization.safe_globals(stands):
                found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except InputError:
        raise
    except Exception as error:  # a stranger's program for torch's interpreter: it may fail in any way
        reason = shown(str(error).splitlines()[0] if str(error) else type(error).__name__, 160)
        raise InputError(str(path), f"torch cannot read it safely ({reason})", WANTED) from None
    if not isinstance(found, dict):
        raise InputError(str(path), f"holds a {type(found).__name__}", WANTED)
    return found


def _part(state: Mapping[str, object], word: str, where: Path) -> Mapping[str, object]:
    found = state.get(word)
    if not isinstance(found, dict):
        raise InputError(str(where), f"has no {word}", WANTED)
    return found


@dataclass(frozen=True)
class _Zero:
    """What the ranks saved."""

    home: Path
    optimizers: Sequence[Mapping[str, object]]
    models: Sequence[Mapping[str, object]]

    def tensors(self) -> Iterator[LazyTensor]:
        """Every tensor of the model."""
        stage = self.optimizers[0].get("zero_stage")
        if stage not in (1, 2, 3):
            raise InputError(str(self.home), f"zero_stage is {shown(stage, 20)}", "1, 2 or 3")
        yield from self._third() if stage == 3 else self._second()
        yield from self._frozen(stage == 3)
        yield from self._buffers()

    def _groups(self) -> list[list[tuple[str, tuple[int, ...]]]]:
        shapes = self.models[0].get("param_shapes")
        groups = [group for group in (shapes if isinstance(shapes, list) else [shapes]) if isinstance(group, dict)]
        if not groups:
            raise InputError(str(self.home), "param_shapes are no names and shapes", WANTED)
        return [[(str(name), tuple(shape)) for name, shape in group.items()] for group in groups]

    def _second(self) -> Iterator[LazyTensor]:
        parts = [_flats(state, "single_partition_of_fp32_groups", self.home) for state in self.optimizers]
        for number, group in enumerate(self._groups()):
            if any(len(own) <= number for own in parts):
                raise InputError(str(self.home), f"has no weights of group {number}", WANTED)
            pieces = [_piece(own[number]) for own in parts]
            yield from self._cut(group, pieces)

    def _cut(self, group: Sequence[tuple[str, tuple[int, ...]]], pieces: Sequence[Piece]) -> Iterator[LazyTensor]:
        at, there = 0, sum(piece.count for piece in pieces)
        for name, shape in group:
            count = prod(shape)
            if at + count > there:
                raise InputError(str(self.home), f"ends inside {shown(name)}", WANTED, "copy the files of every rank")
            yield flat_tensor(name, shape, "F32", list(_between(pieces, at, at + count)), self.home.name)
            at += count

    def _third(self) -> Iterator[LazyTensor]:
        ranks = [[_piece(flat) for flat in _flats(s, "fp32_flat_groups", self.home)] for s in self.optimizers]
        at, there = 0, min(sum(piece.count for piece in pieces) for pieces in ranks)
        for name, shape in (one for group in self._groups() for one in group):
            each = -(-prod(shape) // len(ranks))
            if at + each > there:
                raise InputError(str(self.home), f"ends inside {shown(name)}", WANTED, "copy the files of every rank")
            pieces = [piece for own in ranks for piece in _between(own, at, at + each)]
            yield flat_tensor(name, shape, "F32", pieces, self.home.name)
            at += each

    def _frozen(self, cut: bool) -> Iterator[LazyTensor]:
        shapes = self.models[0].get("frozen_param_shapes")
        for name, shape in shapes.items() if isinstance(shapes, dict) else ():
            parts = [
                _part(m, "frozen_param_fragments", self.home).get(name)
                for m in (self.models if cut else [*self.models][:1])
            ]
            if not all(_is_tensor(part) for part in parts):
                raise InputError(str(self.home), f"has no values of {shown(name)}, which was frozen", WANTED)
            pieces = [_piece(part.reshape(-1).float()) for part in parts if _is_tensor(part)]
            yield flat_tensor(str(name), tuple(shape), "F32", pieces, self.home.name)

    def _buffers(self) -> Iterator[LazyTensor]:
        module, names = self.models[0].get("module"), self.models[0].get("buffer_names")
        for name in names if isinstance(names, list) and isinstance(module, dict) else ():
            value = module.get(name) if isinstance(module, dict) else None
            if _is_tensor(value):
                yield as_lazy(str(name), value.float(), self.home.name)


def _is_tensor(value: object) -> TypeGuard[torch.Tensor]:
    import torch

    return isinstance(value, torch.Tensor)


def _flats(state: Mapping[str, object], word: str, where: Path) -> list[torch.Tensor]:
    found = state.get(word)
    if not isinstance(found, list) or not all(_is_tensor(flat) for flat in found):
        raise InputError(str(where), f"has no {word}", WANTED)
    return [flat.reshape(-1) for flat in found]


def _piece(flat: torch.Tensor) -> Piece:
    def load(start: int, stop: int) -> np.ndarray:
        found: np.ndarray = flat[start:stop].float().numpy()
        return found

    return Piece(flat.numel(), load)


def _between(pieces: Sequence[Piece], start: int, stop: int) -> Iterator[Piece]:
    """What of the pieces lies between two places of the row that they make."""
    at = 0
    for piece in pieces:
        first, last = max(start - at, 0), min(stop - at, piece.count)
        if first < last:
            yield _part_of(piece, first, last)
        at += piece.count


def _part_of(piece: Piece, first: int, last: int) -> Piece:
    return Piece(last - first, lambda start, stop: piece.load(first + start, first + stop))
