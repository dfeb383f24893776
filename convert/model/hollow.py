"""A transformers model without its weights, and the weights of one of its modules at a time, from the checkpoint.

The module is built on the meta device, buffers that no checkpoint has (rotary frequencies) get the values their own
class gives them, and tensors are renamed, joined and cast by transformers' own loader, asked for a few at a time: what
a module holds while it is loaded is what `from_pretrained` would have given it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from convert.source import quantized
from convert.source.checkpoint import LazyTensor, open_tensors, packing
from validate.errors import RuntimeFailure
from validate.runtimes._folder import first_line, quiet
from validate.runtimes.transformers import class_of_sounds
from validate.silence import silence_torchao

silence_torchao()  # before transformers, which looks whether it is there

# ruff: noqa: E402
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
)
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
)
from transformers.modeling_utils import LoadStateDictConfig, PreTrainedModel

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

LARGEST_BUFFER = 1 << 26  # values: 2048 positions of 32768 numbers


def build(folder: Path, dtype: torch.dtype, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The model of a checkpoint's folder with parameters on the meta device and buffers in memory.

    Raises RuntimeFailure for a config that transformers makes no model of.
    """
    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
            if packing(folder) is not None:  # undone while tensors are read
                vars(config).pop(quantized.KEY, None)
            auto = auto_class(config)
            with torch.device("meta"):
                model = auto.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
            _fill_buffers(model)
            model.tie_weights()
    except Exception as error:  # transformers raises anything for a config that it cannot read
        raise RuntimeFailure(f"transformers makes no model of {folder}: {first_line(error)}") from error
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


def auto_class(config: PreTrainedConfig) -> type[_BaseAutoModelClass]:
    """transformers' own choice of a class for a config."""
    parts = config.to_dict()
    found: type[_BaseAutoModelClass] = AutoModelForCausalLM
    if "vision_config" in parts:
        found = AutoModelForImageTextToText
    elif "audio_config" in parts:
        found = class_of_sounds(config.model_type)
    return found


def whole(folder: Path, dtype: torch.dtype, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The model of a checkpoint's folder with all of its weights in memory, made whole where they are quantized."""
    model = build(folder, dtype, trust_remote_code=trust_remote_code)
    Weights(model, folder, dtype).load_all()
    return model


def _fill_buffers(model: PreTrainedModel) -> None:
    """Give buffers on the meta device the values that their classes start them with.

    Each model within the model (a tower of another family) knows its own. Raises ValueError for one that none knows.
    """
    owners = {name: module for name, module in model.named_modules() if isinstance(module, PreTrainedModel)}
    for name, module in model.named_modules():
        buffers = {key: buffer for key, buffer in module._buffers.items() if buffer is not None and buffer.is_meta}
        if not buffers:
            continue
        for key, buffer in buffers.items():
            if buffer.numel() > LARGEST_BUFFER:
                raise ValueError(f"{key} of {type(module).__name__} is too large: {tuple(buffer.shape)}")
            module._buffers[key] = torch.full_like(buffer, _unknown(buffer), device="cpu")
        owner = max((n for n in owners if n == "" or f"{name}.".startswith(f"{n}.")), key=len)
        owners[owner]._init_weights(module)
    for model_within in owners.values():  # some start their layers' buffers all at once (Falcon-H1's multipliers)
        if any(_is_unknown(buffer) for buffer in model_within.buffers()):
            model_within._init_weights(model_within)


def _unknown(buffer: Tensor) -> float:
    """A value that no buffer starts with."""
    if buffer.is_floating_point():
        return math.nan
    return 0 if buffer.dtype == torch.bool else torch.iinfo(buffer.dtype).min


def _is_unknown(buffer: Tensor) -> bool:
    if buffer.dtype == torch.bool:
        return False
    return bool((buffer.isnan() if buffer.is_floating_point() else buffer == _unknown(buffer)).any())


@dataclass
class Weights:
    """The tensors of a checkpoint by the module that they belong to; open files, nothing read before it is asked for.

    `model` is one of `build`. A tensor that no parameter takes, or a parameter that no tensor fills, is a
    RuntimeFailure here already, before anything runs.
    """

    model: PreTrainedModel
    folder: Path
    dtype: torch.dtype
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))  # of a layer's weights while it is loaded
    _slices: dict[str, object] = field(default_factory=dict)
    _places: dict[str, tuple[Path, int, int]] = field(default_factory=dict)  # file, first byte and bytes of a tensor
    _targets: dict[str, str] = field(default_factory=dict)  # tensor of the checkpoint -> the parameter that takes it
    _tied: dict[str, str] = field(default_factory=dict)  # parameter without a tensor -> the one whose values it has

    def __post_init__(self) -> None:
        self._mapping = get_model_conversion_mapping(self.model)
        self._open()
        self._match()

    def _open(self) -> None:
        if packing(self.folder) is not None:
            self._slices |= {name: Computed(tensor) for name, tensor in open_tensors(self.folder).items()}
            return
        for path in _files(self.folder):
            file = safe_open(path, framework="pt")
            names: list[str] = file.keys()  # type: ignore[no-untyped-call]
            self._slices |= {name: file.get_slice(name) for name in names}  # type: ignore[no-untyped-call]
            self._places |= _places(path)

    def _match(self) -> None:
        state = self.model.state_dict()
        renamings = [entry for entry in self._mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in self._mapping if isinstance(entry, WeightConverter)]
        by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
        prefix = self.model.base_model_prefix
        filled, unexpected = set[str](), set[str]()
        for name in self._slices:
            target, pattern = rename_source_key(name, renamings, converters, prefix, state)
            if target not in state and name in state:
                target, pattern = rename_source_key(name, [], [], prefix, state)
            if target not in state:
                unexpected.add(target)
                continue
            self._targets[name] = target
            targets = by_pattern[pattern].target_patterns if pattern is not None else [target]
            filled |= {target.replace(targets[0], one) for one in targets}
        self._tie(filled)
        self._refuse(state.keys() - filled - self._tied.keys(), unexpected)

    def _tie(self, filled: set[str]) -> None:
        """Which of tied parameters the checkpoint has; where it has all of them, each keeps its own values."""
        for target, source in self.model.all_tied_weights_keys.items():
            if source in filled and target not in filled:
                self._tied[target] = source
            elif target in filled and source not in filled:
                self._tied[source] = target

    def _refuse(self, missing: set[str], unexpected: set[str]) -> None:
        ignored = self.model._keys_to_ignore_on_load_unexpected or ()
        buffers = {name for name, _ in self.model.named_buffers()}
        strange = {name for name in unexpected if not any(re.search(pattern, name) for pattern in ignored)}
        strange -= {name for name in strange if name.endswith("rotary_emb.inv_freq")}
        known = self.model.state_dict().keys()  # beside what no checkpoint has, and a class forgot to start
        missing = missing | {name for name, b in self.model.named_buffers() if name not in known and _is_unknown(b)}
        absent = {name for name in missing if name not in buffers or _is_unknown(self.model.get_buffer(name))}
        for kind, names in (("missing", absent), ("unexpected", strange)):
            if names:
                few = ", ".join(sorted(names)[:5]) + (", …" if len(names) > 5 else "")
                raise RuntimeFailure(f"transformers loaded the source with {len(names)} {kind} keys: {few}")

    @property
    def targets(self) -> Mapping[str, str]:
        """Tensor of the checkpoint -> the parameter of the model that takes it, alone or with others."""
        return self._targets

    # ---- loading

    def _sources(self, module: str, names: Iterable[str], whole: bool) -> list[str]:
        """The checkpoint's tensors that parameters and buffers are made of; what they are tied to included."""
        start = f"{module}." if module else ""
        wanted = {self._tied.get(name, name) for name in names}
        wanted |= {f"{start}{name}" for name in self.model.get_submodule(module)._buffers}
        return [n for n, target in self._targets.items() if target in wanted or (whole and target.startswith(start))]

    def _parameters(self, module: str, whole: bool) -> list[str]:
        found = self.model.get_submodule(module).named_parameters(recurse=whole, remove_duplicate=False)
        return [f"{module}.{name}" if module else name for name, _ in found]

    @contextlib.contextmanager
    def loaded(self, module: str) -> Iterator[nn.Module]:
        """The module with its weights in memory, which are gone again at the end."""
        before = _parameters_of(self.model.get_submodule(module))
        self._load(module, whole=True)
        try:
            yield self.model.get_submodule(module)
        finally:
            for owner, parameters in before:
                owner._parameters.update(parameters)

    def change(self, module: str, changed: Mapping[str, Tensor]) -> None:
        """Read a module that is loaded anew, with other values for some of the checkpoint's tensors."""
        names = self._parameters(module, whole=True)
        self._read(self._sources(module, names, whole=True), self.device, changed)

    def expect(self, module: str) -> None:
        """Have the system read a module's part of the files, while something else computes."""
        sources = self._sources(module, self._parameters(module, whole=True), whole=True)
        threading.Thread(
            target=_read_ahead, args=([self._places[n] for n in sources if n in self._places],), daemon=True
        ).start()

    def idle(self) -> None:
        """What was read ahead is the system's to forget."""

    def load_all(self) -> None:
        """Read every tensor, for good."""
        self._load("", whole=True)

    def load(self, module: str) -> None:
        """Read what is a module's own, not its children's, for good."""
        self._load(module, whole=False)

    def _load(self, module: str, whole: bool) -> None:
        names = self._parameters(module, whole)
        holders = {name: _holder(self.model, name) for name in names}
        meta = {source: _holder(self.model, source) for source in {self._tied[n] for n in names if n in self._tied}}
        kept = {source: owner._parameters[leaf] for source, (owner, leaf) in meta.items()}
        self._read(self._sources(module, names, whole), self.device if whole else torch.device("cpu"))
        for name, (owner, leaf) in holders.items():
            if name in self._tied:
                other, its = meta[self._tied[name]]
                owner._parameters[leaf] = other._parameters[its]
        for source, (owner, leaf) in meta.items():
            if source not in holders:
                owner._parameters[leaf] = kept[source]
        self._refuse_empty(holders)

    def _refuse_empty(self, holders: Mapping[str, tuple[nn.Module, str]]) -> None:
        for name, (owner, leaf) in holders.items():
            parameter = owner._parameters[leaf]
            if parameter is not None:
                parameter.requires_grad_(False)
                if parameter.is_meta:
                    raise RuntimeFailure(f"transformers loaded the source without {name}")

    def _read(self, sources: Iterable[str], device: torch.device, changed: Mapping[str, Tensor] | None = None) -> None:
        state = {name: self._slices[name] for name in sources} | dict(changed or {})
        config = LoadStateDictConfig(dtype=self.dtype, weight_mapping=self._mapping, device_map={"": device})
        with quiet():
            info, _ = convert_and_load_state_dict_in_model(self.model, state, config)
        wrong = [*info.mismatched_keys, *info.conversion_errors, *info.error_msgs]
        if wrong:
            raise RuntimeFailure(f"transformers could not load {wrong[0]}")


@dataclass(frozen=True)
class Computed:
    """A tensor of a checkpoint as transformers' loader takes one that is not read yet."""

    tensor: LazyTensor

    def __getitem__(self, where: object) -> Tensor:
        """Its values, or those of a part of it."""
        values = np.array(self.tensor.load())
        self.tensor.release()
        found = torch.from_numpy(values)
        found = found.view(torch.bfloat16) if self.tensor.dtype == "BF16" else found
        return found[where]


def _files(folder: Path) -> list[Path]:
    """The files that a checkpoint's index names, else the one there is."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / name for name in sorted(set(named))]
    return sorted(folder.glob("*.safetensors"))


def _places(path: Path) -> dict[str, tuple[Path, int, int]]:
    """Where each tensor lies in a safetensors file."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    offsets = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    return {name: (path, 8 + length + first, end - first) for name, (first, end) in offsets.items()}


def _read_ahead(places: Iterable[tuple[Path, int, int]]) -> None:
    for path, first, size in places:
        with contextlib.suppress(OSError, AttributeError), open(path, "rb") as file:  # macOS has no such call
            os.posix_fadvise(file.fileno(), first, size, os.POSIX_FADV_WILLNEED)


def _holder(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    parent, _, leaf = name.rpartition(".")
    return model.get_submodule(parent), leaf


def _parameters_of(module: nn.Module) -> list[tuple[nn.Module, dict[str, Tensor | None]]]:
    return [(owner, dict(owner._parameters)) for owner in module.modules()]
