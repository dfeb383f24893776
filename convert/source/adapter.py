"""PEFT's LoRA adapters: what they hold, and a checkpoint's tensors with them merged, computed a few rows at a time.

    weight + scale * alpha / r * (B @ A)                       LoRA; alpha / sqrt(r) with use_rslora
    m / |weight + …|, row by row, * (weight + …)               DoRA
    the tensor itself                                          modules_to_save, embeddings that have grown

Sums are float32, rounded once to the type the tensor is stored in. Source: peft, tuners/lora/layer.py and dora.py,
utils/save_and_load.py.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from convert.errors import InputError
from convert.json_types import JsonObject
from convert.source.checkpoint import LazyTensor, stored_tensors
from convert.source.untrusted import inside, read_object, shown

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
PREFIX = "base_model.model."
PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|token_adapter\.trainable_tokens_delta)"
    r"(?:\.default)?(?P<end>\.weight|\.bias)?"
)
WHOLE = re.compile(r"(?P<module>.+?)(?:\.(?:base_layer|modules_to_save(?:\.default)?))?\.(?P<end>weight|bias)")
WANTED = "an adapter of this model"
OTHER = "is it an adapter of another model, or of another size of it?"


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to one matrix."""

    a: LazyTensor  # (rank, inputs); of an embedding (rank, tokens)
    b: LazyTensor  # (outputs, rank)
    scale: float
    embedding: bool = False
    magnitude: LazyTensor | None = None  # DoRA's

    @property
    def rank(self) -> int:
        """How many rows A has."""
        return self.a.shape[0]


@dataclass(frozen=True)
class Adapter:
    """A folder that PEFT wrote. Modules are called as in it, without the prefix."""

    folder: Path
    config: JsonObject
    low_rank: Mapping[str, LowRank]
    biases: Mapping[str, tuple[LazyTensor, float]] = field(default_factory=dict)  # module -> what its bias gets
    tokens: Mapping[str, tuple[LazyTensor, tuple[int, ...]]] = field(default_factory=dict)  # rows of an embedding
    whole: Mapping[str, LazyTensor] = field(default_factory=dict)  # tensor -> what takes its place

    @property
    def transposed(self) -> bool:
        """Whether matrices of the model are stored (inputs, outputs)."""
        return self.config.get("fan_in_fan_out") is True

    def refuse(self, got: str, wanted: str = WANTED, remedy: str = OTHER) -> InputError:
        """What to raise where something in it is not as it should be."""
        return InputError(str(self.folder), got, wanted, remedy)


def read_adapter(folder: Path, scale: float = 1.0) -> Adapter:
    """The adapter in `folder`, its tensors not loaded yet. Raises InputError."""
    if not (folder / CONFIG).is_file():
        got = f"has no {CONFIG}" if folder.is_dir() else "is no folder"
        raise InputError(str(folder), got, "the folder of a PEFT adapter", "check the path")
    config = read_object(inside(folder, CONFIG))
    kind = config.get("peft_type")
    if kind != "LORA":
        remedy = "merge it with peft: `model.merge_and_unload()`"
        raise InputError(str(folder / CONFIG), f"peft_type is {shown(kind, 40)}", "'LORA'", remedy)
    tensors = _tensors(folder)
    groups: defaultdict[str, dict[str, LazyTensor]] = defaultdict(dict)
    whole: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        plain = name.removeprefix(PREFIX)
        if found := PART.fullmatch(plain):
            end = ".bias" if found["end"] == ".bias" else ""
            groups[found["module"]][found["part"] + end] = tensor
        elif found := WHOLE.fullmatch(plain):
            whole[f"{found['module']}.{found['end']}"] = tensor
        else:
            raise InputError(f"{folder}: tensor {shown(name)}", "is nothing that a LoRA has", WANTED, "")
    return _Reading(folder, config, scale).adapter(groups, whole)


def _tensors(folder: Path) -> dict[str, LazyTensor]:
    if (folder / WEIGHTS).is_file():
        return stored_tensors(inside(folder, WEIGHTS))
    if (folder / PICKLE).is_file():
        from convert.source.pickled import lazy_tensors

        return lazy_tensors(inside(folder, PICKLE))
    raise InputError(str(folder), f"has neither {WEIGHTS} nor {PICKLE}", "a PEFT adapter", "check the path")


@dataclass(frozen=True)
class _Reading:
    folder: Path
    config: JsonObject
    scale: float

    def adapter(self, groups: Mapping[str, Mapping[str, LazyTensor]], whole: Mapping[str, LazyTensor]) -> Adapter:
        low_rank = {module: self._low_rank(module, parts) for module, parts in groups.items() if not _of_tokens(parts)}
        tokens = {module: self._rows(module, parts) for module, parts in groups.items() if _of_tokens(parts)}
        biases = {
            module: (parts["lora_B.bias"], low_rank[module].scale)
            for module, parts in groups.items()
            if "lora_B.bias" in parts
        }
        return Adapter(self.folder, self.config, low_rank, biases, tokens, whole)

    def _low_rank(self, module: str, parts: Mapping[str, LazyTensor]) -> LowRank:
        embedding = "lora_embedding_A" in parts or "lora_embedding_B" in parts
        kind = "lora_embedding_" if embedding else "lora_"
        a, b = parts.get(f"{kind}A"), parts.get(f"{kind}B")
        if a is None or b is None:
            raise self._wrong(f"{module} has no {kind}{'A' if a is None else 'B'}")
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or not a.shape[0]:
            raise self._wrong(
                f"{module}: {kind}A {list(a.shape)} and {kind}B {list(b.shape)} are no product of matrices"
            )
        magnitude = parts.get("lora_magnitude_vector")
        if embedding and magnitude is not None:
            raise self._wrong(f"{module}: DoRA of an embedding")
        return LowRank(a, b, self.scale * self._scaling(module, a.shape[0]), embedding, magnitude)

    def _scaling(self, module: str, rank: int) -> float:
        alpha = self.config.get("lora_alpha", 8)
        patterns = self.config.get("alpha_pattern")
        for pattern, own in patterns.items() if isinstance(patterns, Mapping) else ():
            if _matches(pattern, module):
                alpha = own
                break
        if isinstance(alpha, bool) or not isinstance(alpha, int | float):
            raise self._wrong(f"lora_alpha of {module} is {shown(alpha, 40)}")
        return alpha / math.sqrt(rank) if self.config.get("use_rslora") is True else alpha / rank

    def _rows(self, module: str, parts: Mapping[str, LazyTensor]) -> tuple[LazyTensor, tuple[int, ...]]:
        said = self.config.get("trainable_token_indices")
        if isinstance(said, Mapping):
            said = next((ids for name, ids in said.items() if _matches(str(name), module)), None)
        rows = parts["token_adapter.trainable_tokens_delta"]
        good = isinstance(said, list) and all(type(n) is int and n >= 0 for n in said)
        if not good or len(said or ()) != rows.shape[0]:
            raise self._wrong(f"trainable_token_indices does not say which {rows.shape[0]} rows of {module} there are")
        return rows, tuple(said or ())

    def _wrong(self, got: str) -> InputError:
        return InputError(str(self.folder), got, "a LoRA as PEFT saves it", "save the adapter again")


def _of_tokens(parts: Mapping[str, LazyTensor]) -> bool:
    return any(part.startswith("token_adapter") for part in parts)


def _matches(pattern: str, module: str) -> bool:
    """Whether PEFT applies what a config says for `pattern` to the module (utils/other.py, get_pattern_key)."""
    try:
        return re.fullmatch(rf"(.*\.)?({pattern})", module) is not None
    except re.error:
        return False


def place_of(tensor: str, names: Sequence[str] | Mapping[str, object]) -> str:
    """What a checkpoint with tensors called `names` calls one of an adapter; empty where it has none.

    An adapter has the names of transformers' modules, a checkpoint may have those of an older version.
    """
    if tensor in names:
        return tensor
    found = [name for name in names if _core(name) == _core(tensor)]
    return found[0] if len(found) == 1 else ""


def _core(name: str) -> str:
    """The name without what versions of transformers put in front of it, or between."""
    return ".".join(part for part in name.split(".") if part not in ("model", "language_model", "transformer"))


def modules_of(adapters: Sequence[Adapter]) -> Iterator[str]:
    """Every module that is changed, for what is said of them."""
    for adapter in adapters:
        yield from adapter.low_rank
