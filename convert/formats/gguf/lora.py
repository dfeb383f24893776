"""A PEFT LoRA as a GGUF adapter: llama.cpp adds scale * alpha / rank * B @ A to a matrix while it runs.

    blk.0.attn_q.weight.lora_a   (rank, inputs)      general.type      adapter
    blk.0.attn_q.weight.lora_b   (outputs, rank)     adapter.type      lora
                                                     adapter.lora.alpha

Rows of B go where the rows of the matrix go in a GGUF file: a family's tables say where. Source: llama.cpp,
src/llama-adapter.cpp, convert_lora_to_gguf.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from pathlib import Path

import numpy as np

from convert import architectures
from convert.architectures import Family
from convert.architectures._graph_spec import OutputTensor, SourceTensor
from convert.bundle import Bundle, Model
from convert.formats.gguf.file_plan import FilePlan, TensorInfo
from convert.formats.gguf.general import general_metadata
from convert.formats.gguf.tensors import StreamedTensor
from convert.formats.gguf.writer import Group
from convert.gguf_field import Field
from convert.source.adapter import Adapter, LowRank, place_of
from convert.source.card import read_card
from convert.source.checkpoint import LazyTensor
from convert.source.companions import Companions, read_companions
from quantize.blocks import TYPES, BlockType
from quantize.floats import to_float32
from quantize.mixes import QUANTIZATION_VERSION

EMBEDDING = "token_embd.weight"
MERGE = "merge it: `model: {path, adapter: {path}}`"


@dataclass(frozen=True)
class Pair:
    """What is added to one tensor of the GGUF file; of experts, stacks of matrices."""

    name: str
    a: np.ndarray
    b: np.ndarray
    stored: tuple[str, str]  # safetensors types of the two
    scaling: float  # what the product is multiplied with
    place: int | None = None  # the expert, and of how many
    places: int = 1


def prepare(bundle: Bundle, adapter: Adapter, kind: str, name: str) -> Group:
    """The adapter's file, planned: its tensors are small, and in memory. Raises InputError."""
    companions = read_companions(bundle, tokenizer=False)
    family = architectures.find(companions.config)
    spec = family.text(companions.config)
    _refuse_all_else(adapter)
    known = {tensor.source: tensor for tensor in spec.tensors}
    pairs = _stacked(
        adapter, [pair for part in adapter.low_rank.items() for pair in _pairs(adapter, part, family, known)]
    )
    alpha = _alpha(adapter, pairs)
    tensors = [tensor for pair in pairs for tensor in _tensors(pair, alpha)]
    infos = tuple(TensorInfo(t.name, t.shape, _type(kind, t.shape)) for t in tensors)
    fields = [
        Field.string("general.architecture", spec.architecture),
        *_general(adapter, name),
        Field.string("adapter.type", "lora"),
        Field.float32("adapter.lora.alpha", alpha),
        Field.uint32("general.quantization_version", QUANTIZATION_VERSION),
    ]
    return Group(((FilePlan(f"{name}-{kind}.gguf", f"gguf/{kind}", tuple(fields), infos),),), tuple(tensors))


def _general(adapter: Adapter, name: str) -> list[Field]:
    """Who the adapter is, by its own card."""
    card = adapter.folder / "README.md"
    found, _ = read_card(card if card.is_file() else None)
    return general_metadata(Companions(adapter.config, {}, {}, {}, {}, None, found), Model(name), 0, type="adapter")


def _refuse_all_else(adapter: Adapter) -> None:
    """Raise InputError for what llama.cpp has no place for."""
    lengths = [module for module, low in adapter.low_rank.items() if low.magnitude is not None]
    for what, names in (
        ("lengths of rows (DoRA)", lengths),
        ("biases", [*adapter.biases]),
        ("rows of single tokens", [*adapter.tokens]),
        ("whole tensors", [*adapter.whole]),
    ):
        if names:
            raise adapter.refuse(
                f"has {what}, of {names[0]} and {len(names) - 1} more", "products of two matrices", MERGE
            )
    if not adapter.low_rank:
        raise adapter.refuse("changes nothing", "products of two matrices", "")


def _pairs(
    adapter: Adapter, part: tuple[str, LowRank], family: Family, known: Mapping[str, SourceTensor]
) -> Iterator[Pair]:
    module, low = part
    name = family.own_name(f"{module}.weight")
    found = known.get(name) or known.get(place_of(name, known))
    if found is None:
        got = f"changes {module} of rank {low.rank}, {list(low.b.shape)} by {list(low.a.shape)}"
        raise adapter.refuse(f"{got}, and {family.title} has no {module}.weight in its GGUF file")
    made = low.b.shape[0], low.a.shape[1]
    shape = made[::-1] if low.embedding or adapter.transposed else made
    if found.shape != shape:
        words = f"lora_A {list(low.a.shape)} and lora_B {list(low.b.shape)} of rank {low.rank} make {list(shape)}"
        raise adapter.refuse(f"{module}: {words}, config.json says {list(found.shape)}")
    for output in found.outputs:
        yield _pair(adapter, module, low, found, output)


def _pair(adapter: Adapter, module: str, low: LowRank, tensor: SourceTensor, output: OutputTensor) -> Pair:
    a, b = _values(low.a), _values(low.b)
    stored = low.a.dtype, low.b.dtype
    if low.embedding:
        return Pair(output.name, np.ascontiguousarray(a.T), b, stored, low.scale)
    rows = rows_of(output, tensor.shape)
    if rows is None:
        raise adapter.refuse(f"{module}: its values are others in a GGUF file, not rows in another order", "", MERGE)
    place, places = (output.place, output.places) if output.place is not None else (None, 1)
    return Pair(output.name, a, np.ascontiguousarray(b[rows]), stored, low.scale, place, places)


def rows_of(output: OutputTensor, shape: tuple[int, ...]) -> np.ndarray | None:
    """Which outputs of the matrix are the rows of the GGUF tensor; None where something else is done to it."""
    if output.change is not None or output.packed is not None or len(shape) != 2:
        return None
    outputs = shape[1] if output.transposed else shape[0]
    numbers = np.arange(outputs)[None, :] if output.transposed else np.arange(outputs)[:, None]
    seen = np.broadcast_to(numbers, shape)
    seen = seen if output.view is None else output.view(seen)
    if seen.shape[-1] != (shape[0] if output.transposed else shape[1]):
        return None
    first, last = (seen[..., column].reshape(-1) for column in (0, -1))
    return first if np.array_equal(first, last) else None


def _values(tensor: LazyTensor) -> np.ndarray:
    return to_float32(np.array(tensor.load()))


def _stacked(adapter: Adapter, pairs: Sequence[Pair]) -> list[Pair]:
    """Experts of one layer together, where the last of them is."""
    made, waiting = list[Pair](), dict[str, dict[int, Pair]]()
    for pair in pairs:
        if pair.place is None:
            made.append(pair)
            continue
        found = waiting.setdefault(pair.name, {})
        found[pair.place] = pair
        if len(found) == pair.places:
            every = [found[place] for place in range(pair.places)]
            a, b = np.stack([one.a for one in every]), np.stack([one.b for one in every])
            made.append(Pair(pair.name, a, b, pair.stored, pair.scaling))
            del waiting[pair.name]
    for name, found in waiting.items():
        some = next(iter(found.values()))
        raise adapter.refuse(f"changes {len(found)} of the {some.places} experts of {name}", "all of them", MERGE)
    return made


def _alpha(adapter: Adapter, pairs: Sequence[Pair]) -> float:
    """The file's alpha: as config.json has it, or what makes alpha / rank of rsLoRA's where that is one number."""
    said = adapter.config.get("lora_alpha")
    found = {round(pair.scaling * _rank(pair), 9) for pair in pairs}
    if len(found) == 1:
        return found.pop()
    return float(said) if isinstance(said, int | float) and said else 1.0


def _rank(pair: Pair) -> int:
    return int(pair.b.shape[-1])


def _tensors(pair: Pair, alpha: float) -> Iterator[StreamedTensor]:
    factor = pair.scaling * _rank(pair) / alpha
    b = pair.b if isclose(factor, 1, rel_tol=1e-6) else pair.b * np.float32(factor)
    for suffix, values in (("lora_a", pair.a), ("lora_b", b)):
        yield StreamedTensor(OutputTensor(f"{pair.name}.{suffix}", values.shape), values=values)


def _type(kind: str, shape: tuple[int, ...]) -> BlockType:
    """The type asked for, or F16 where rows do not fill its blocks."""
    return TYPES["F16"] if shape[-1] % TYPES[kind].values else TYPES[kind]


def source_bytes(path: Path) -> int:
    """Of the adapter's weights."""
    return sum(file.stat().st_size for file in path.glob("adapter_model.*"))
