"""Parameters -> checkpoint tensors: every parameter has exactly one, and every tensor is used or named as left out.

The names are those transformers itself gives the checkpoint's tensors when it loads the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from convert.bundle import Bundle, Role
from convert.errors import InputError, Problem, StageError
from convert.formats.onnx.experts import expert_name, stacked
from convert.formats.onnx.joined import Joined, Recipe, Stored, expert
from convert.formats.onnx.trace import sizes, weights
from convert.source.checkpoint import SAFETENSORS, model_entries, open_bundle
from convert.source.safetensors import read_header

if TYPE_CHECKING:
    from numpy.typing import DTypeLike
    from torch import nn

TYPES = {"F32": ir.DataType.FLOAT, "F16": ir.DataType.FLOAT16, "BF16": ir.DataType.BFLOAT16}
"""Stored type -> ONNX's; no other holds a language model's weights unquantized."""

NAMED = 5  # tensors that a message names
PIECE_BYTES = 8 << 20


HEADS = ("lm_head.weight", "embed_out.weight", "language_model.lm_head.weight")
"""What transformers' classes call the output head."""


@dataclass(frozen=True)
class Ledger:
    """Where every tensor of a checkpoint goes."""

    of: Mapping[str, Stored | Joined]  # parameter -> its tensor; parameters that are tied to one have the same
    stacked: Mapping[str, int] = field(default_factory=dict)  # parameter of all experts -> its entries, one an expert
    left_out: Mapping[str, str] = field(default_factory=dict)  # tensor -> why no graph has it
    tied: tuple[tuple[Stored | Joined, Stored | Joined], ...] = ()  # (left out because equal, kept): to be proven
    problems: tuple[Problem, ...] = ()
    missing: frozenset[str] = frozenset()  # parameters of a whole model without a tensor: no graph may need them

    @property
    def type(self) -> str:
        """The stored type of most bytes."""
        count: dict[str, int] = {}
        for tensor in dict.fromkeys(self.of.values()):
            count[tensor.dtype] = count.get(tensor.dtype, 0) + tensor.stop - tensor.start
        return max(count, key=lambda name: count[name], default="F32")

    def entries(self, parameter: str) -> tuple[str, ...]:
        """The names that a parameter's values have in a graph: of a stack of experts, one each."""
        count = self.stacked.get(parameter)
        return (parameter,) if count is None else tuple(expert_name(parameter, number) for number in range(count))


def stored(source: Bundle, *, heads: bool = False) -> dict[str, Stored]:
    """Every tensor of the checkpoint, by its own name; with `heads`, those too that no text is made with.

    Raises InputError for files that are broken.
    """
    found = open_bundle(source).tensors
    if source.pending is not None:  # not written yet: what a plan needs is there
        home = Path(SAFETENSORS.single)
        return {name: Stored(name, t.dtype, t.shape, home, 0, t.nbytes) for name, t in found.items()}
    return {
        entry.name: Stored(entry.name, entry.dtype, entry.shape, file.path, entry.start, entry.stop)
        for file in source.of(Role.WEIGHTS)
        for entry in model_entries(read_header(file.path), heads=heads)
    }


def match_tensors(model: nn.Module, tensors: Mapping[str, Stored], *, whole: bool = False) -> Ledger:
    """The ledger of a checkpoint for transformers' `model` (hollow, or on the meta device), problems included.

    Of a `whole` model other heads than its own are left out, and what lacks is a problem only where a graph needs it.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    tied = _tied(model)
    renamed, recipes, doubled = _renamed(model, tensors, parameters)
    found: dict[str, Stored | Joined] = {name: tensors[own] for name, own in renamed.items() if name in parameters}
    left_out, unknown = _unused(model, renamed, parameters, whole)
    made, broken = _made(recipes, model)
    for name, (made_whole, _) in made.items():
        if name in parameters:
            found[name] = made_whole
        else:
            others, strangers = _unused(model, {name: made_whole.sources[0].name}, parameters, whole)
            left_out |= {tensor.name: why for why in others.values() for tensor in made_whole.sources}
            unknown += [tensor.name for _ in strangers for tensor in made_whole.sources]
    pairs = []
    for name, keeper in tied.items():
        if name in found and keeper in found:
            pairs.append((found[name], found[keeper]))
            left_out[found[name].name] = f"tied to {found[keeper].name}"
        if keeper not in found and name in found:
            found[keeper] = found[name]
    for name, keeper in tied.items():
        if keeper in found:
            found[name] = found[keeper]
    missing = [name for name in parameters if name not in found]
    optional = frozenset(missing) if whole else frozenset[str]()
    missing = [name for name in missing if name not in optional]
    problems = [
        *doubled,
        *broken,
        *_headless(missing),
        *_lacking([n for n in missing if n not in HEADS], "lacks", "download the model again"),
        *_lacking(unknown, "has unknown tensors:", "config.json describes another model, or they are new"),
        *_misfits(found, parameters),
    ]
    apart = {} if problems else _apart(found, made, model)
    return Ledger({**found, **apart}, stacked(model), left_out, tuple(pairs), tuple(problems), optional)


def _apart(
    found: dict[str, Stored | Joined], made: Mapping[str, tuple[Joined, Recipe]], model: nn.Module
) -> dict[str, Stored | Joined]:
    """An entry for each expert's matrix in the place of the stack's."""
    apart: dict[str, Stored | Joined] = {}
    for name, count in stacked(model).items():
        whole = found.pop(name, None)
        if whole is None:
            continue
        for number in range(count):
            entry = expert_name(name, number)
            if isinstance(whole, Joined):
                apart[entry] = expert(entry, made[name][1], whole, number, model)
            else:
                apart[entry] = whole.row(number)
    return apart


def _made(recipes: Sequence[Recipe], model: nn.Module) -> tuple[dict[str, tuple[Joined, Recipe]], list[Problem]]:
    """(parameter -> what it is made of, and by what), and what could not be put together."""
    made: dict[str, tuple[Joined, Recipe]] = {}
    problems = []
    for recipe in recipes:
        try:
            made |= {name: (whole, recipe) for name, whole in recipe.targets(model).items()}
        except (ValueError, RuntimeError, KeyError, AttributeError, IndexError, TypeError) as error:
            names = [tensor.name for tensors in recipe.tensors.values() for tensor in tensors]
            got = f"{some(names)} cannot be put together into {recipe.target} ({str(error).splitlines()[0][:200]})"
            problems.append(Problem("checkpoint", got, "every piece of a parameter, once", "download the model again"))
    return made, problems


def _tied(model: nn.Module) -> dict[str, str]:
    """Parameter -> the one it is the same as: `lm_head.weight` -> `model.embed_tokens.weight`."""
    first: dict[int, str] = {}
    tied = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        keeper = first.setdefault(id(parameter), name)
        if keeper != name:
            tied[name] = keeper
    return tied


def _renamed(
    model: nn.Module, tensors: Mapping[str, Stored], parameters: Mapping[str, nn.Parameter]
) -> tuple[dict[str, str], list[Recipe], list[Problem]]:
    """(parameter's name -> tensor's, what is put together of several, tensors that are the same parameter).

    By transformers' own tables, in the order it reads them.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, dot_natural_key, rename_source_key

    rules = get_model_conversion_mapping(model)
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    renamings = [rule for rule in rules if not isinstance(rule, WeightConverter)]
    of_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    renamed: dict[str, str] = {}
    gathered: dict[str, dict[str, list[Stored]]] = {}
    doubled: list[Problem] = []
    for own in sorted(tensors, key=dot_natural_key):
        known = dict(parameters)
        name, pattern = rename_source_key(own, renamings, converters, model.base_model_prefix, known)
        if name not in parameters and own in parameters:
            name, pattern = rename_source_key(own, [], [], model.base_model_prefix, known)
        if pattern is not None:
            gathered.setdefault(name, {}).setdefault(pattern, []).append(tensors[own])
        elif renamed.setdefault(name, own) != own:
            got = f"{own} and {renamed[name]} are both {name}"
            doubled.append(Problem("checkpoint", got, "one tensor a parameter", "take one of them out"))
    recipes = [
        Recipe(of_pattern[next(iter(given))], name, {pattern: tuple(one) for pattern, one in given.items()})
        for name, given in gathered.items()
    ]
    return renamed, recipes, doubled


def _unused(
    model: nn.Module, renamed: Mapping[str, str], parameters: Mapping[str, nn.Parameter], whole: bool
) -> tuple[dict[str, str], list[str]]:
    """(tensors that the model says it computes itself -> why they are left out, tensors nobody knows).

    Of a `whole` model those beside its own modules are other heads.
    """
    modules = {name.partition(".")[0] for name in parameters}
    patterns = [re.compile(p) for p in getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()]
    buffers = {name for name, _ in model.named_buffers()}
    left_out, unknown = {}, []
    for name, own in renamed.items():
        if name in parameters:
            continue
        if name in buffers or name.endswith("rotary_emb.inv_freq"):
            left_out[own] = "the graph has it computed from config.json"
        elif any(pattern.search(name) for pattern in patterns):
            left_out[own] = "transformers leaves it out too"
        elif whole and name.partition(".")[0] not in modules:
            left_out[own] = f"no part of {type(model).__name__}"
        else:
            unknown.append(own)
    return left_out, unknown


def _headless(missing: Sequence[str]) -> list[Problem]:
    """That there is no output head, where the embedding is not said to be one."""
    return [
        Problem(
            "checkpoint",
            f"lacks {name}, the output head, and tie_word_embeddings is false (or its default) in config.json",
            "a head of its own, or a config that ties it to the embedding",
            "if the model was trained with the two tied, set tie_word_embeddings to true in config.json; if not, the "
            "head was lost when it was saved: save the model again, whole, where it was trained or merged",
        )
        for name in missing
        if name in HEADS
    ]


def _lacking(names: Sequence[str], what: str, remedy: str) -> list[Problem]:
    if not names:
        return []
    return [Problem("checkpoint", f"{what} {some(names)}", "every tensor used once or left out on purpose", remedy)]


def _misfits(found: Mapping[str, Stored | Joined], parameters: Mapping[str, nn.Parameter]) -> list[Problem]:
    """Tensors of a type no graph has weights of, and those whose shape is not the parameter's."""
    problems = []
    if no_floats := sorted({f"{t.name} of {t.dtype}" for t in found.values() if t.dtype not in TYPES}):
        remedy = "convert the model it was made from"
        problems.append(Problem("checkpoint", f"holds {some(no_floats)}", f"one of {', '.join(TYPES)}", remedy))
    misshapen = dict.fromkeys(  # of tied parameters both names have the one tensor
        f"{t.name} {list(t.shape)} where it says {list(parameters[name].shape)}"
        for name, t in found.items()
        if tuple(t.shape) != tuple(parameters[name].shape)
    )
    if misshapen:
        remedy = "config.json and weights are of two models, or one is damaged"
        problems.append(Problem("config.json", f"disagrees with the weights: {some(list(misshapen))}", "", remedy))
    return problems


def some(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def prove_tied(ledger: Ledger) -> None:
    """Raise InputError where a tensor that is left out because it is tied differs from the one that is kept."""
    for left, kept in ledger.tied:
        if (left.dtype, left.shape) != (kept.dtype, kept.shape) or not _equal(left, kept):
            got = f"config.json ties {left.name} to {kept.name}, but their values differ"
            raise InputError(left.name, got, "equal tensors", "set tie_word_embeddings to false in config.json")


def _equal(left: Stored | Joined, right: Stored | Joined) -> bool:
    """Whether two tensors of one size have the same bytes; of stored ones a piece of each is in memory at a time."""
    if not isinstance(left, Stored) or not isinstance(right, Stored):
        return values_of(left).tobytes() == values_of(right).tobytes()
    with open(left.path, "rb") as one, open(right.path, "rb") as other:
        one.seek(left.start)
        other.seek(right.start)
        rest = left.stop - left.start
        while rest:
            size = min(rest, PIECE_BYTES)
            if one.read(size) != other.read(size):
                return False
            rest -= size
    return True


def bind(model: ir.Model, ledger: Ledger, *, widen: bool = False) -> None:
    """Give every weight of the graph its tensor, as it is stored, and a Cast to float32 where that is not its type.

    An embedding is cast after its rows were taken, so that the table is never widened whole. With `widen` the weights
    are float32 themselves, made one at a time when they are written, and no Cast is needed.
    """
    for name, value in weights(model).items():
        tensor = ledger.of.get(name)
        if tensor is None or tuple(tensor.shape) != sizes(value):
            raise StageError("onnx", f"the graph's weight {name} is no parameter of the model")
        if widen and tensor.dtype != "F32":
            value.const_value = widened(name, tensor)
        else:
            value.const_value = in_place(name, tensor) if isinstance(tensor, Stored) else lazy(name, tensor)
            if tensor.dtype != "F32":
                _cast(model.graph, value, TYPES[tensor.dtype])


class Mapped(ir.ExternalTensor):  # type: ignore[misc]  # onnx_ir is not followed by mypy here
    """A tensor in a file that is mapped only while its values are in use: an export touches every page once."""

    def numpy(self) -> np.ndarray:
        shape = tuple(self.shape.numpy())
        if not self.size:
            return np.empty(shape, self.dtype.numpy())
        return np.asarray(np.memmap(self.path, self.dtype.numpy(), "r", self.offset or 0, shape))

    def __array__(self, dtype: DTypeLike = None) -> np.ndarray:
        return self.numpy().__array__(dtype)

    def tobytes(self) -> bytes:
        return self.numpy().tobytes()


def in_place(name: str, tensor: Stored) -> ir.ExternalTensor:
    """The tensor's bytes where they lie. The location is absolute and has no base, for ir refuses hard links else."""
    return Mapped(
        str(tensor.path),
        tensor.start,
        tensor.stop - tensor.start,
        TYPES[tensor.dtype],
        shape=ir.Shape(tensor.shape),
        name=name,
    )


def lazy(name: str, tensor: Joined) -> ir.LazyTensor:
    """The tensor put together only while it is written."""
    kind = TYPES[tensor.dtype]

    def load() -> ir.Tensor:
        return ir.Tensor(tensor.make(), dtype=kind, name=name)

    return ir.LazyTensor(load, kind, ir.Shape(tensor.shape), name=name)


def values_of(tensor: Stored | Joined) -> np.ndarray:
    """A tensor's values in its stored type: a view of the file where they lie together."""
    return in_place(tensor.name, tensor).numpy() if isinstance(tensor, Stored) else tensor.make()


def widened(name: str, tensor: Stored | Joined) -> ir.LazyTensor:
    """The tensor in float32, in memory only while it is written."""

    def load() -> ir.Tensor:
        return ir.Tensor(values_of(tensor).astype(np.float32), dtype=ir.DataType.FLOAT, name=name)

    return ir.LazyTensor(load, ir.DataType.FLOAT, ir.Shape(tensor.shape), name=name)


def _cast(graph: ir.Graph, value: ir.Value, kind: ir.DataType) -> None:
    """Make the weight one of `kind`, and put Casts to float32 where it is used."""
    value.type = ir.TensorType(kind)
    uses = [(node, index) for node, index in value.uses()]
    rows = [node for node, index in uses if node.op_type == "Gather" and index == 0]
    for node in rows:
        _cast_after(node, kind)
    others = [(node, index) for node, index in uses if node not in rows]
    if others:
        cast = _cast_node(value, f"{value.name}.float32")
        graph.insert_before(_first(graph, [node for node, _ in others]), cast)
        for node, index in others:
            node.replace_input_with(index, cast.outputs[0])


def _cast_after(gather: ir.Node, kind: ir.DataType) -> None:
    """Cast the rows a Gather takes."""
    (rows,) = gather.outputs
    readers = list(rows.uses())
    name, is_output = rows.name, rows.is_graph_output()
    cast = _cast_node(rows, str(name))
    rows.name = f"{name}.stored"
    rows.type = ir.TensorType(kind)
    graph = gather.graph
    if graph is None:
        raise StageError("onnx", f"the node {gather.name} is in no graph")
    graph.insert_after(gather, cast)
    for node, index in readers:
        node.replace_input_with(index, cast.outputs[0])
    if is_output:
        graph.outputs[:] = [cast.outputs[0] if output is rows else output for output in graph.outputs]


def _cast_node(value: ir.Value, name: str) -> ir.Node:
    to = ir.AttrInt64("to", int(ir.DataType.FLOAT))
    node = ir.Node("", "Cast", [value], [to], num_outputs=1, name=f"cast_{name}")
    output = node.outputs[0]
    output.name, output.shape, output.type = name, value.shape, ir.TensorType(ir.DataType.FLOAT)
    return node


def _first(graph: ir.Graph, nodes: Sequence[ir.Node]) -> ir.Node:
    wanted = set(nodes)
    return next(node for node in graph if node in wanted)


def used(models: Iterable[ir.Model]) -> set[str]:
    """The weights that the graphs take, by name."""
    return {name for model in models for name in weights(model)}


def check_used(ledger: Ledger, taken: Callable[[str], bool]) -> None:
    """Raise InputError when a parameter that has a tensor is in no graph: what it does to the logits is lost."""
    if lost := unused(ledger, taken):
        raise InputError("checkpoint", f"has unknown tensors: {some(lost)}", "every tensor in a graph")


def unused(ledger: Ledger, taken: Callable[[str], bool]) -> list[str]:
    """The tensors that no graph takes."""
    kept = {tensor for name, tensor in ledger.of.items() if taken(name)}
    return sorted({tensor.name for tensor in ledger.of.values() if tensor not in kept})


def check_found(ledger: Ledger, taken: Collection[str]) -> None:
    """Raise InputError where a graph needs what the checkpoint lacks."""
    if lacking := sorted(ledger.missing & set(taken)):
        got, wanted = f"lacks {some(lacking)}", "every tensor that the model's class computes with"
        remedy = "download the model again; a base model without a head is exported by its own class in config.json"
        raise InputError("checkpoint", got, wanted, remedy)
