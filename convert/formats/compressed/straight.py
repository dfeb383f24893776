"""A compressed-tensors folder, written straight from the checkpoint: nothing is run, one tensor in memory at a time.

Tensors are called as in the checkpoint: that is what vLLM, SGLang and transformers load. A matrix's tensors stand where
the matrix stood.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from convert.architectures import TensorRole
from convert.bundle import Artifact
from convert.errors import InputError
from convert.formats.compressed.folder import FolderTensor, Layout, values, write_shards
from convert.formats.compressed.scheme import Scheme
from convert.json_types import JsonDict
from quantize import gptq_layout, presets
from quantize.compressed import Packed
from quantize.gptq_layout import LAYER, Decision
from quantize.presets import Preset

R = TensorRole
FLOATS = ("BF16", "F16", "F32")
FOLDER = {"FP8_DYNAMIC": "-FP8-dynamic", "FP8_TENSOR": "-FP8-dynamic", "FP8_BLOCK": "-FP8-block"}
GROUP_SIZES = (128, 64, 32)

# Matrices that servers compute as one, in the order in which they lie below each other.
TOGETHER: tuple[tuple[TensorRole, ...], ...] = (
    (R.Q, R.K, R.V),
    (R.GATE, R.UP),
    (R.EXPERT_GATE, R.EXPERT_UP),
    (R.SHARED_GATE, R.SHARED_UP),
)
INTO_LATENT = ("q_a_proj", "kv_a_proj_with_mqa")  # of one role with those out of it


@dataclass(frozen=True)
class CompressedScheme(Scheme):
    """A preset as a scheme of a folder."""

    preset: Preset = presets.FP8_TENSOR

    @classmethod
    def of(cls, preset: Preset) -> CompressedScheme:
        """The scheme of a preset."""
        return cls("fp8" if preset.name in FOLDER else "compressed", preset.bits, -1, True, preset=preset)

    @property
    def type(self) -> str:
        """As in artifact kinds: F8_E4M3 and the presets' names."""
        return "F8_E4M3" if self.method == "fp8" else self.preset.name

    def folder_name(self, model: str) -> str:
        """As the hub has them: <Model>-FP8-dynamic, <Model>-W4A16."""
        return model + FOLDER.get(self.preset.name, f"-{self.preset.name}")


@dataclass(frozen=True)
class StraightLayout(Layout):
    """All that will be written."""

    scheme: CompressedScheme

    @cached_property
    def exclusions(self) -> Sequence[str]:
        """The modules that are not quantized, as config.json says it."""
        return ignored(self.decision, self.towers, self.head)

    @property
    def quantization(self) -> JsonDict:
        """config.json's quantization_config."""
        return presets.quantization_config(self.scheme.preset, self.exclusions)

    @cached_property
    def together(self) -> Mapping[str, tuple[str, ...]]:
        """Quantized module -> itself and those it is computed with as one, in their order."""
        by_place: defaultdict[tuple[str, tuple[TensorRole, ...]], dict[int, str]] = defaultdict(dict)
        for module in self.decision.quantized:
            parent, _, last = module.rpartition(".")
            role = self.roles.of[f"{module}.weight"]
            if last in INTO_LATENT:
                by_place[parent, (R.LATENT,)][INTO_LATENT.index(last)] = module
            for roles in (roles for roles in TOGETHER if role in roles):
                by_place[parent, roles][roles.index(role)] = module
        found = [tuple(places[i] for i in sorted(places)) for places in by_place.values()]
        return {m: (m,) for m in self.decision.quantized} | {m: group for group in found for m in group}

    def _tensors(self) -> Iterator[FolderTensor]:
        taken = set(self.decision.quantized)
        for name, tensor in self.checkpoint.tensors.items():
            module, _, suffix = name.rpartition(".")
            if module not in taken or suffix != "weight":
                yield FolderTensor(name, tensor.dtype, tensor.shape, "", name)
                continue
            for word, (dtype, shape) in self.scheme.preset.encoding.specs(tensor.shape, tensor.dtype).items():
                yield FolderTensor(f"{module}.{word}", dtype, shape, module, name)

    def check(self) -> None:
        """Raise ConvertError for layers of another kind, for a quantized checkpoint, and for shapes that do not fit."""
        self.check_layers()
        for module in self.decision.quantized:
            tensor = self.checkpoint.tensors[f"{module}.weight"]
            if tensor.dtype not in FLOATS:
                raise InputError(tensor.name, f"is stored as {tensor.dtype}", f"one of {', '.join(FLOATS)}")
            fused = self.together[module][-1] != module
            if reason := self.scheme.preset.encoding.unsuitable(tensor.shape, fused):
                raise InputError(tensor.name, reason, "", self._remedy(tensor.shape[1]))

    def _remedy(self, columns: int) -> str:
        """What to do where columns do not fill their groups."""
        other = f"another scheme than {self.scheme.preset.name}"
        if not isinstance(self.scheme.preset.encoding, Packed):
            return other
        fits = next((size for size in GROUP_SIZES if columns % size == 0), -1)
        return f"group_size: {fits}, or {other}"


def ignored(decision: Decision, towers: Sequence[str], head: str) -> tuple[str, ...]:
    """Words that match what is kept and nothing that is quantized, whoever spells a module's name.

    transformers 5 says `model.visual` and `model.language_model.layers`, vLLM `visual` and
    `language_model.model.layers`, checkpoints either or neither. The head is named whether or not the
    checkpoint has one of its own: where it is tied to the embedding, readers make a module for it.
    """
    heads = "|".join(dict.fromkeys((gptq_layout.HEAD, re.escape(head.rpartition(".")[2]))))  # GPT-NeoX's is embed_out
    words = {f"re:(?:.*\\.)?(?:{heads})$" if "|" in heads else f"re:(?:.*\\.)?{heads}$": None}
    words |= {f"re:(?:.*\\.)?{re.escape(tower)}\\..*": None for tower in towers}
    for module in decision.kept:
        if not any(re.match(word[3:], module) for word in words):
            words[_pattern(module, decision.quantized)] = None
    return tuple(words)


def _pattern(module: str, quantized: Sequence[str]) -> str:
    """The module in every layer: what follows the layer's number; the name itself where that says too much."""
    found = LAYER.search(module)
    if found is None:
        return module
    pattern = f"re:.*\\.{re.escape(module[found.end() :])}$"
    return module if any(re.match(pattern[3:], other) for other in quantized) else pattern


def write_weights(out: Path, layout: StraightLayout) -> tuple[Artifact, ...]:
    """The weights' files in `out`. Raises InputError for a matrix that holds numbers that are not finite."""
    writer = _Writer(layout)
    return write_shards(out, layout, writer.data)


class _Writer:
    """Encodes a matrix when the first of its tensors is asked for, and keeps that one until the next."""

    def __init__(self, layout: StraightLayout) -> None:
        self._layout, self._module = layout, ""
        self._parts: Mapping[str, np.ndarray] = {}
        self._tops: dict[tuple[str, ...], float] = {}

    def data(self, tensor: FolderTensor) -> np.ndarray:
        """The values of a tensor of the folder."""
        source = self._layout.checkpoint.tensors[tensor.source]
        if not tensor.module:
            return np.ascontiguousarray(source.load())
        if tensor.module != self._module:
            matrix, encoding = np.ascontiguousarray(values(source)), self._layout.scheme.preset.encoding
            top = _largest(tensor.source, matrix)
            shared = self._shared_top(tensor.module) if encoding.SHARES else top
            self._module, self._parts = tensor.module, encoding.encode(matrix, source.dtype, shared)
            source.release()
        return np.ascontiguousarray(self._parts[tensor.suffix])

    def _shared_top(self, module: str) -> float:
        """The largest value of all the matrices that are computed with this one."""
        group = self._layout.together[module]
        if group not in self._tops:
            names = [f"{other}.weight" for other in group]
            found = (_largest(name, values(self._layout.checkpoint.tensors[name])) for name in names)
            self._tops[group] = max(found)
        return self._tops[group]


def _largest(name: str, matrix: np.ndarray) -> float:
    from quantize import e4m3

    found = float(e4m3.largest(np.ascontiguousarray(matrix), matrix.shape)[0, 0])
    if not np.isfinite(found):
        raise InputError(name, "holds numbers that are not finite", "finite numbers", "is the checkpoint sound?")
    return found
