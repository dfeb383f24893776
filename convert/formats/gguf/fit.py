"""The types that lose least in a file of a given size: what is free to choose, what may be chosen, and the files.

open      a plan of the file in a usual type: which tensors have their types in every file, and the metadata's size
sought    bytes that each fit may take
choices   the mixes of least predicted cost, several where a proof will decide
plan      the file of a mix, byte for byte as large as was asked for at most
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from convert.errors import ConvertError, PlanError, Problem
from convert.estimate.fit import room_for_weights
from convert.estimate.setting import Setting
from convert.formats.gguf.conversion import Conversion
from convert.formats.gguf.file_plan import FilePlan, TensorInfo, padded
from convert.formats.gguf.fit_costs import OF_OTHER_MODELS, Costs, types_for
from convert.formats.gguf.fit_options import Fit
from convert.formats.gguf.memory import planned_file
from convert.formats.gguf.shard_names import Split
from convert.formats.gguf.split import split_plans
from convert.formats.gguf.tensors import StreamedTensor
from convert.gguf_field import Field
from quantize.blocks import TYPES
from quantize.budget import Best, Cost, TooSmall, best, totalled
from quantize.mixes import MIXES, Tensor, file_type_of, is_free, role_of, wants_importance
from validate.kv_cache import CacheTypes

BASE = "Q4_K_M"  # whose plan tells what no choice is about
FILE_TYPE = "general.file_type"
TEMPERS = (1.0, 1.25)
"""Powers of the costs that candidate mixes are chosen by: above 1 the largest count for more. Sums of costs to second
order are least sure of those."""
LARGEST_ELSEWHERE = TYPES["Q8_0"].bits_per_value
HOLDERS = 3  # tensors that a message names


@dataclass(frozen=True)
class Mixture:
    """A choice of types for every free tensor, and why it was tried."""

    types: Mapping[str, str]
    why: str
    predicted: float  # the sum of costs: mean KL where they are that
    bytes: int  # of the free tensors, padded


@dataclass(frozen=True, eq=False)
class Open:
    """A conversion whose types are to be chosen. `kinds` has the free tensors, and what each may be."""

    conversion: Conversion
    base: FilePlan
    presets: Mapping[str, FilePlan]  # by file type, of the whole file
    kinds: Mapping[str, Sequence[str]]
    start: str  # of the file's name
    split: Split | None = None

    @property
    def free_infos(self) -> list[TensorInfo]:
        """The tensors whose types are chosen, in the file's order."""
        return [info for info in self.base.infos if info.name in self.kinds]

    @property
    def free_tensors(self) -> list[StreamedTensor]:
        """The same as what they are read from."""
        return [tensor for tensor in self.conversion.text.tensors if tensor.name in self.kinds]

    @property
    def values(self) -> int:
        """Of all tensors."""
        return sum(prod(info.shape) for info in self.base.infos)

    def largest(self, target: Target) -> tuple[int, float]:
        """Bytes of the largest file that a target allows, and its bits a weight; what pads tensors counts here."""
        free = target.room + sum(self.size_of(name, "Q8_0") for name in target.elsewhere & self.kinds.keys())
        kept = sum(info.nbytes for info in self.base.infos if info.name not in self.kinds)
        return self.around + free, 8 * (free + kept) / self.values

    @property
    def metadata(self) -> int:
        """Bytes before the first tensor."""
        return self.around - sum(padded(i.nbytes) for i in self.base.infos if i.name not in self.kinds)

    def size_of(self, name: str, kind: str) -> int:
        """What a tensor takes in a type, with what pads it."""
        return padded(replace(self._infos[name], type=TYPES[kind]).nbytes)

    @functools.cached_property
    def _infos(self) -> dict[str, TensorInfo]:
        return {info.name: info for info in self.base.infos}

    @functools.cached_property
    def around(self) -> int:
        """Bytes of the file beside its free tensors: metadata, what stays as it is, padding."""
        smallest = {name: kinds[0] for name, kinds in self.kinds.items()}
        plan = self.plan(Mixture(smallest, "", 0.0, 0))
        return plan.size - sum(padded(info.nbytes) for info in plan.infos if info.name in self.kinds)

    def plan(self, mixture: Mixture) -> FilePlan:
        """The whole file of a mix; its name says the bits that it came to."""
        infos = tuple(
            replace(info, type=TYPES[mixture.types[info.name]], why=mixture.why) if info.name in self.kinds else info
            for info in self.base.infos
        )
        bits = 8 * sum(info.nbytes for info in infos) / self.values
        values = Counter[str]()
        for info in infos:
            values[info.type.name] += prod(info.shape)
        main = values.most_common(1)[0][0]
        label = f"{bits:.2f}bpw"
        # nothing of our own is said there: a usual type's mix takes the bytes of that type's file, and so fits `like:`
        fields = tuple(
            Field.uint32(FILE_TYPE, file_type_of(main)) if field.key == FILE_TYPE else field
            for field in self.base.fields
        )
        return FilePlan(f"{self.start}-{label}.gguf", f"gguf/{label}", fields, infos)

    def shards(self, plan: FilePlan) -> tuple[FilePlan, ...]:
        """The same in files of the size asked for."""
        return (plan,) if self.split is None else split_plans(plan, self.split)


def presets(*, weighted: bool) -> list[str]:
    """The usual file types that a fit is compared with; without importance those that do without."""
    found = [mix for mix in MIXES.values() if not (mix.is_plain or mix.ends or mix.main in OF_OTHER_MODELS)]
    return [mix.name for mix in found if weighted or not wants_importance(mix)]


def open_types(
    conversion: Conversion, types: Sequence[str], keep: Mapping[str, str], start: str, *, gradients: bool
) -> Open:
    """What is to be chosen of a conversion that was planned in these `types`; `gradients` weigh every tensor's columns.

    Raises PlanError for rules that fail.
    """
    plans = {kind: volume[0] for kind, volume in zip(types, conversion.text.volumes, strict=True)}
    base, entries = plans[BASE], conversion.imatrix.entries if conversion.imatrix else {}
    kinds: dict[str, Sequence[str]] = {}
    for tensor in conversion.text.tensors:
        if is_free(MIXES[BASE], Tensor(tensor.name, tensor.shape)) and not (tensor.output.type or tensor.output.packed):
            kinds[tensor.name] = types_for(tensor, weighted=gradients or tensor.name in entries)
    return Open(conversion, base, plans, _kept(kinds, keep, base), start)


def _kept(kinds: Mapping[str, Sequence[str]], keep: Mapping[str, str], base: FilePlan) -> dict[str, Sequence[str]]:
    """With the hard rules: the first that is about a tensor counts. A rule is a role, or is found in names."""
    tied = not any(role_of(name) == "output" for name in kinds)
    found, problems = dict(kinds), []
    used: set[str] = set()
    infos = {info.name: info for info in base.infos}
    for name in kinds:
        roles = {role_of(name), *(["output"] if tied and role_of(name) == "token_embd" else [])}
        rule = next((r for r in keep if r in roles or (r not in ROLES and re.search(r, name))), None)
        if rule is None:
            continue
        used.add(rule)
        kind, row = TYPES[keep[rule]], infos[name].shape[-1]
        if not kind.fits(row):
            got = f"{rule}: {kind.name}, and {name} has rows of {row} values"
            problems.append(Problem("keep", got, f"a multiple of {kind.values}", "name a type of 32 values a block"))
        found[name] = [kind.name]
    known = f"a role ({', '.join(ROLES)}) or a part of names like blk.0.ffn_down.weight"
    problems += [Problem("keep", f"{rule!r} is about no tensor", known) for rule in keep if rule not in used]
    if problems:
        raise PlanError(*problems)
    return found


ROLES = ("output", "token_embd", "attn_v", "attn_k", "attn_output", "ffn_down")


@dataclass(frozen=True)
class Target:
    """What a file may take: `asked` bytes of a disk or a memory, of which `room` is for the free tensors.

    Those `elsewhere` lie in another memory and take nothing of it: the embedding, where the rest goes to a GPU.
    """

    asked: int
    room: int
    elsewhere: frozenset[str] = frozenset()
    of_file: bool = True  # else of a memory


def target_of(one: Fit, opened: Open) -> Target:
    """What a fit comes to for these tensors. Raises PlanError where the smallest is larger."""
    target = _on_gpu(one, one.gpu, opened) if one.gpu is not None else _on_disk(_file_bytes(one, opened), opened)
    smallest = sum(opened.size_of(n, kinds[0]) for n, kinds in opened.kinds.items() if n not in target.elsewhere)
    if target.room < smallest:
        raise PlanError(_too_small(one, target, smallest, opened))
    return target


def _on_disk(budget: int, opened: Open) -> Target:
    return Target(budget, budget - opened.around)


def _file_bytes(one: Fit, opened: Open) -> int:
    if one.file is not None:
        return one.file
    if one.like is not None:
        return sum(plan.size for plan in opened.shards(opened.presets[one.like]))
    kept = [info for info in opened.base.infos if info.name not in opened.kinds]
    padding = sum(padded(i.nbytes) - i.nbytes for i in kept)
    return opened.around - sum(i.nbytes for i in kept) - padding + int((one.bits or 0) * opened.values / 8)


def _on_gpu(one: Fit, memory: int, opened: Open) -> Target:
    """What cache, buffers and projector leave of a GPU's memory (convert/estimate)."""
    groups = opened.conversion.groups
    if one.images and len(groups) < 2:
        raise PlanError(Problem("fit", "images, and no projector is made", "a model with vision", "leave out images"))
    setting = Setting(one.context, CacheTypes.parse(one.kv), images=one.images > 0)
    projector = planned_file(*groups[1].plans) if one.images else None
    try:
        left = room_for_weights(planned_file(opened.base), setting, memory, projector=projector)
    except ConvertError as error:
        raise PlanError(*(Problem("fit", f"{one}: {problem}") for problem in error.problems)) from None
    kept = [i for i in opened.base.infos if i.name not in opened.kinds and i.name not in left.elsewhere]
    return Target(memory, left.nbytes - sum(info.nbytes for info in kept), left.elsewhere, of_file=False)


def _too_small(one: Fit, target: Target, smallest: int, opened: Open) -> Problem:
    """What the smallest is, and who holds its bytes."""
    held = {i.name: i.nbytes for i in opened.base.infos if i.name not in opened.kinds}
    held |= {name: opened.size_of(name, kinds[0]) for name, kinds in opened.kinds.items()}
    most = sorted(held.keys() - target.elsewhere, key=lambda name: (-held[name], name))[:HOLDERS]
    names = ", ".join(f"{name} {held[name]:,}" for name in most)
    least = target.asked - target.room + smallest
    got = f"{one} is {target.asked:,} bytes, and the smallest there is takes {least:,}"
    beside = f"metadata {opened.metadata:,}" if target.of_file else "the rest is cache and buffers"
    return Problem("fit", got, f"at least that; most of it: {names}, {beside}", "ask for more, or keep less")


def mixtures(opened: Open, costs: Costs, target: Target, like: str | None, *, several: bool) -> list[Mixture]:
    """The mix of least predicted cost; with `several` those near it that a proof decides between."""
    tables = {temper: _table(opened, costs, target, temper) for temper in TEMPERS[: None if several else 1]}
    found: dict[tuple[str, ...], Mixture] = {}
    for temper, table in tables.items():
        chosen = _fitting(opened, table, target)
        true = totalled(tables[1.0], chosen.choices)
        why = "chosen for the size" + ("" if temper == 1 else f", by costs to the power of {temper}")
        found.setdefault(tuple(chosen.choices.values()), Mixture(chosen.choices, why, true.loss, true.bytes))
    for preset in _usual(opened, tables[1.0], target.room, like) if several else ():
        found.setdefault(tuple(preset.types.values()), preset)
    return list(found.values())


def _table(opened: Open, costs: Costs, target: Target, temper: float) -> dict[str, dict[str, Cost]]:
    """What each choice takes of the room and costs. Who takes nothing of it is no larger than 8 bits are."""
    table: dict[str, dict[str, Cost]] = {}
    for name, kinds in opened.kinds.items():
        free = name in target.elsewhere
        there = {kind: cost for kind, cost in costs[name].items() if kind in kinds and cost < float("inf")}
        small = {kind: cost for kind, cost in there.items() if TYPES[kind].bits_per_value <= LARGEST_ELSEWHERE}
        there = small if free and small else there
        table[name] = {k: Cost(0 if free else opened.size_of(name, k), cost**temper) for k, cost in there.items()}
    return table


def _fitting(opened: Open, table: Mapping[str, Mapping[str, Cost]], target: Target) -> Best:
    """The best whose files, all shards together, take no more than what is asked for."""
    room = target.room
    while True:
        try:
            chosen = best(table, room)
        except TooSmall as error:
            got = f"{target.asked:,} bytes, and in shards the smallest takes {target.asked - room + error.smallest:,}"
            raise PlanError(Problem("fit", got, "", "ask for more, or for larger shards")) from None
        plan = opened.plan(Mixture(chosen.choices, "", chosen.loss, chosen.bytes))
        over = sum(shard.size for shard in opened.shards(plan)) - target.asked if target.of_file else 0
        if over <= 0:
            return chosen
        room -= over


def _usual(opened: Open, table: Mapping[str, Mapping[str, Cost]], room: int, like: str | None) -> Iterator[Mixture]:
    """What usual types would come to: that asked for, of those that fit the largest, and that of least predicted cost.

    Hard rules are kept: a type that breaks one is not among them.
    """
    found = []
    for kind, plan in opened.presets.items():
        types = {info.name: info.type.name for info in plan.infos if info.name in opened.kinds}
        if all(type_ in table[name] for name, type_ in types.items()):
            true = totalled(table, {name: types[name] for name in table})
            found.append(Mixture(true.choices, f"as in {kind}", true.loss, true.bytes))
    fitting = [one for one in found if one.bytes <= room]
    yield from (one for one in fitting if one.why == f"as in {like}")
    if fitting:
        yield max(fitting, key=lambda one: (one.bytes, -one.predicted))
        yield min(fitting, key=lambda one: (one.predicted, one.bytes))
