"""The finished folder: every tensor of the source accounted for, names as every reader finds them, companions complete.

What was not to change has the source's own bytes, what was made has the layout's dtypes and shapes. Anything else is an
error before a byte is written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np

from convert.architectures import DENSE, EXPERTS, LINEARS, TEXT, VISION, Roles, TensorRole, in_words
from convert.architectures._nearest import family_of
from convert.bundle import Artifact
from convert.errors import InputError, Problem, StageError, raise_all
from convert.files import write_text
from convert.formats.compressed.scheme import Scheme
from convert.json_types import JsonObject
from convert.source.checkpoint import SAFETENSORS, STORAGE, Checkpoint, LazyTensor, shapes_of
from convert.source.safetensors import BITS, write
from convert.source.untrusted import listed
from quantize import gptq_layout
from quantize.gptq_layout import Decision, Spec

SHARD_BYTES = 4_500_000_000  # the hub's viewer and most downloads like files below 5 GB


# Beginnings of the same tensors, as checkpoints have them, and one spelling to compare them by.
SPELLINGS = (
    (
        re.compile(r"^(?:model\.language_model\.|language_model\.model\.|language_model\.(?=layers|norm|embed))"),
        "model.",
    ),
    (re.compile(r"^backbone\."), "model."),  # Nemotron-H's, on the hub
    (re.compile(r"^(?:model\.(?=visual|vision_tower)|language_model\.(?=lm_head))"), ""),
    (re.compile(r"\.mlp\.shared_(?:mlp|expert)\."), ".mlp.shared_experts."),  # Hy3's and Laguna's own names
)


def canonical(name: str) -> str:
    """One spelling of a tensor's or module's name, whoever wrote it: `model.layers…` for the text, `visual…`."""
    for beginning, plain in SPELLINGS:
        name = beginning.sub(plain, name)
    return name


OTHERWISE = {"mlp_AR": "projector"}
"""Parts of a checkpoint that transformers calls otherwise, and loads by both names: PaddleOCR-VL's."""

ROUTERS = frozenset({TensorRole.ROUTER, TensorRole.SHARED_ROUTER})
NOT_MATRICES = (TensorRole.EMBEDDING, TensorRole.POSITIONS)  # tables that rows are looked up in
TAKES_FACTORS = (TensorRole.ATTENTION_NORM, TensorRole.MLP_NORM, TensorRole.NORM)  # of the columns behind them
QUANTIZED = LINEARS | {TensorRole.LATENT}
SUPPORTED = DENSE | VISION | QUANTIZED | ROUTERS | {TensorRole.POSITIONS, TensorRole.SINKS}
"""Roles of a model that can be quantized here: the matrices of its layers are, all else stays as it is."""

RECURRENT = frozenset({TensorRole.STATE_SPACE, TensorRole.CONVOLUTION})
"""Roles of layers that keep a state, which stay as they are: where nothing is calibrated, models may have such too."""
STRAIGHT = ("fp8", "compressed")  # methods that look at weights alone


@dataclass(frozen=True)
class FolderTensor:
    """A tensor of the finished folder. `module` is that of a quantized matrix, empty for a tensor that is kept."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    module: str
    source: str  # the name of the source's tensor that it comes from

    @property
    def suffix(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * BITS[self.dtype] // 8


@dataclass(frozen=True)
class Layout:
    """All that will be written: computed from headers, before anything is quantized."""

    checkpoint: Checkpoint
    scheme: Scheme

    @cached_property
    def roles(self) -> Roles:
        """What each tensor is for. Raises ConvertError for a model of no known family."""
        config, tensors = self.checkpoint.config, self.checkpoint.tensors
        return family_of(config, lambda: shapes_of(tensors)).roles(config, tensors)

    @property
    def has_vision(self) -> bool:
        """Whether the model takes images."""
        return self.roles.family.has_vision

    @cached_property
    def towers(self) -> tuple[str, ...]:
        """The beginnings of vision tower and projector: ("visual",)."""
        names = {canonical(name).removeprefix("model.").split(".", 1)[0] for name in self.roles.vision}
        return tuple(sorted(names | {OTHERWISE[name] for name in names & OTHERWISE.keys()}))

    @property
    def head(self) -> str:
        """The module of the head; tied ones are called as most are."""
        found = self.roles.having([TensorRole.HEAD])
        return canonical(found[0]).rpartition(".")[0] if found else gptq_layout.HEAD

    @property
    def exclusions(self) -> Sequence[str]:
        """How config.json says what is kept."""
        return gptq_layout.exclusions(self.towers, self.head)

    @cached_property
    def matrices(self) -> dict[str, tuple[int, ...]]:
        """Module -> shape of its weight, for every matrix of the checkpoint but embeddings."""
        return {
            name.removesuffix(".weight"): tensor.shape
            for name, tensor in self.checkpoint.tensors.items()
            if name.endswith(".weight") and len(tensor.shape) == 2 and self.roles.of.get(name) not in NOT_MATRICES
        }

    @cached_property
    def decision(self) -> Decision:
        """What is quantized and what is kept: every matrix of a decoder layer but routers."""
        linears = {name.removesuffix(".weight") for name, role in self.roles.of.items() if role in QUANTIZED}
        return gptq_layout.decide(self.matrices, linears - set(self.scheme.keep))

    @cached_property
    def tensors(self) -> tuple[FolderTensor, ...]:
        """Every tensor of the folder, in the source's order."""
        return tuple(self._tensors())

    def _tensors(self) -> Iterator[FolderTensor]:
        taken = set(self.decision.quantized)
        for name, tensor in self.checkpoint.tensors.items():
            module, _, suffix = name.rpartition(".")
            if module not in taken:
                yield FolderTensor(name, tensor.dtype, tensor.shape, "", name)
            elif suffix == "weight":
                for word, (dtype, shape) in self._packed(module).items():
                    yield FolderTensor(f"{module}.{word}", dtype, shape, module, name)

    def _packed(self, module: str) -> dict[str, Spec]:
        bias = f"{module}.bias" in self.checkpoint.tensors
        packed: dict[str, Spec] = self.scheme.layout.packed(
            self.matrices[module], self.scheme.bits, self.scheme.group_size, bias
        )
        return packed

    @cached_property
    def shards(self) -> dict[str, list[FolderTensor]]:
        """File name -> its tensors."""
        shards: list[list[FolderTensor]] = [[]]
        for tensor in self.tensors:
            if shards[-1] and sum(t.nbytes for t in shards[-1]) + tensor.nbytes > SHARD_BYTES:
                shards.append([])
            shards[-1].append(tensor)
        return dict(zip(SAFETENSORS.names(len(shards)), shards, strict=True))

    def check(self) -> None:
        """Raise ConvertError for the first matrix that cannot be packed so, and for layers of another kind."""
        self.check_layers()
        for module in self.decision.quantized:
            if reason := gptq_layout.unsuitable(self.matrices[module], self.scheme.group_size):
                remedy = "another group_size, or leave this model to the gguf stage"
                raise InputError(f"{module}.weight", reason, "", remedy)

    def check_layers(self) -> None:
        """Raise PlanError for a model whose layers are not made of what is quantized here."""
        raise_all(list(self.misfits()))

    def misfits(self) -> Iterator[Problem]:
        """What of the layers cannot be quantized here, by the roles of the tensors."""
        return self.role_problems(role_misfits(self.roles, self.scheme.method))

    def role_problems(self, problems: Iterable[Problem]) -> Iterator[Problem]:
        """The problems, and where there is none, matrices that no table of the family has."""
        found = list(problems)
        yield from found
        strange = [name for name in self.roles.unknown if len(self.checkpoint.tensors[name].shape) > 1]
        if strange and not found:
            got = f"unknown tensor {listed(strange)}"
            yield Problem(self.scheme.method, got, f"the tensors of {self.roles.family.title}")


def role_misfits(roles: Roles, where: str) -> Iterator[Problem]:
    """What of a model with these roles cannot be quantized here."""
    title, remedy = roles.family.title, "the gguf stage knows this family"
    packed = [name for name, tensor in roles.tensors.items() if tensor.role in EXPERTS and len(tensor.shape) > 2]
    if roles.gives != TEXT:
        got = f"{title} gives {roles.gives}, and only models that write text are quantized here"
        yield Problem(where, got, "a decoder of text", remedy)
    elif found := roles.beyond(SUPPORTED | RECURRENT if where in STRAIGHT else SUPPORTED):
        got = f"{title} has {in_words(found)}, and only attention and MLP are quantized here"
        yield Problem(where, got, "a dense model", remedy)
    elif packed:
        got = f"{packed[0]} holds all experts of a layer in one tensor"
        yield Problem(where, got, "a tensor for each, which is what the loaders of this format take", remedy)
    elif roles.transposed:
        got = f"{roles.transposed[0]} is stored with inputs before outputs"
        yield Problem(where, got, "weights of torch.nn.Linear, which readers replace", remedy)
    elif not roles.linears and roles.present & RECURRENT:
        yield Problem(where, f"{title}'s layers have neither attention nor an MLP", "matrices of these", remedy)
    elif not roles.linears:
        yield Problem(where, f"no tensor of {title}'s layers is there", "q_proj, …", "download the model again")


# ---- from what was made


def write_weights(out: Path, layout: Layout, tensors: Mapping[str, LazyTensor]) -> tuple[Artifact, ...]:
    """The weights' files in `out`, of `tensors` by the checkpoint's names; norms among them take the place of its own.

    Raises StageError for a tensor that is missing, of another shape, or left over.
    """
    wanted = {f"{t.module}.{t.suffix}" for t in layout.tensors if t.module}
    norms = {t.source for t in layout.tensors if not t.module and layout.roles.of.get(t.source) in TAKES_FACTORS}
    if lacking := sorted(wanted - tensors.keys()):
        raise StageError("quantizing", f"did not make {listed(lacking)}", "every quantized matrix")
    if more := sorted(tensors.keys() - wanted - norms):
        raise StageError("quantizing", f"made {listed(more)}", "only what the source has")
    return write_shards(out, layout, lambda tensor: _bytes(layout, tensor, tensors))


def write_shards(out: Path, layout: Layout, data: Callable[[FolderTensor], np.ndarray]) -> tuple[Artifact, ...]:
    """The layout's files in `out`, and their index where there are several; `data` gives a tensor's values."""
    artifacts = []
    for file, parts in layout.shards.items():
        specs = {t.name: (t.dtype, t.shape) for t in parts}
        artifacts.append(write(out / file, specs, (data(t).data for t in parts), {"format": "pt"}))
    if len(layout.shards) > 1:
        total = sum(t.nbytes for t in layout.tensors)
        weight_map = {t.name: file for file, parts in layout.shards.items() for t in parts}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        artifacts.append(write_text(out / SAFETENSORS.index, json.dumps(index, indent=2), "json"))
    return tuple(artifacts)


def _bytes(layout: Layout, tensor: FolderTensor, made: Mapping[str, LazyTensor]) -> np.ndarray:
    if tensor.module:
        return _packed_bytes(tensor, made[f"{tensor.module}.{tensor.suffix}"])
    if tensor.source in made:
        return as_stored(values(made[tensor.source]), tensor.dtype)
    return np.ascontiguousarray(layout.checkpoint.tensors[tensor.source].load())


def _packed_bytes(tensor: FolderTensor, made: LazyTensor) -> np.ndarray:
    found = as_stored(values(made), "F16") if tensor.dtype == "F16" else made.load()
    if found.shape != tensor.shape or found.dtype != STORAGE[tensor.dtype]:
        got = f"has shape {found.shape} of {found.dtype}"
        raise StageError(f"quantizing: {tensor.name}", got, f"{tensor.shape} of {tensor.dtype}")
    if tensor.dtype == "F16" and not np.isfinite(found).all():
        raise StageError(f"quantizing: {tensor.name}", "holds numbers that are not finite", "finite ones in float16")
    return np.ascontiguousarray(found)


def values(tensor: LazyTensor) -> np.ndarray:
    """Floats as float32; integers as they are."""
    raw = tensor.load()
    if tensor.dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32) if tensor.dtype in ("F16", "F32", "F64") else raw


def as_stored(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values in a safetensors dtype; bfloat16 as its 16 bits, rounded to the nearest, ties to even."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    with np.errstate(over="ignore"):  # what becomes infinite is refused by who asks
        return values.astype(STORAGE[dtype])


# ---- config and companions


def write_configs(out: Path, layout: Layout, quantization: JsonObject) -> tuple[Artifact, ...]:
    """config.json, the source's own with `quantization_config`; for older readers of GPTQ and AWQ a file of it too."""
    config = dict(layout.checkpoint.config) | {"quantization_config": dict(quantization)}
    older = quantization.get("quant_method") in ("gptq", "awq")
    beside = {"quantize_config.json": quantization} if older else {}
    texts = {"config.json": config, **beside}
    return tuple(write_text(out / name, _json(value), "json") for name, value in texts.items())


def write_processors(out: Path, present: Iterable[str], preprocessor: JsonObject) -> tuple[Artifact, ...]:
    """The processor's settings in the spelling that is not there yet.

    transformers 5 and vLLM write and read processor_config.json, everything before reads preprocessor_config.json.
    """
    if not preprocessor:
        return ()
    words = dict(preprocessor)
    processor = {"processor_class": words.get("processor_class"), "image_processor": words}
    if words.get("processor_class") is None:
        del processor["processor_class"]
    both = {"preprocessor_config.json": words, "processor_config.json": processor}
    missing = [name for name in both if name not in set(present)]
    return tuple(write_text(out / name, _json(both[name]), "json") for name in missing)


def write_template(out: Path, present: Sequence[str], templates: Mapping[str, str]) -> tuple[Artifact, ...]:
    """chat_template.jinja, where today's readers look first, unless the source has one."""
    if "chat_template.jinja" in present or "default" not in templates:
        return ()
    return (write_text(out / "chat_template.jinja", templates["default"]),)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
