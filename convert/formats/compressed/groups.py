"""Which matrices of a layer are quantized together, and what stands in front of them that can take AWQ's factors.

Nothing here goes by a family's names: matrices that were given the same tensor are a group, a norm stands in front of
those that were given its output, and the rest is said by roles. Whether factors really change nothing is tried on the
layer itself, with one input, before any are used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convert.architectures import TensorRole
from quantize.layer import Source

if TYPE_CHECKING:
    from convert.model.inputs import Inputs

R = TensorRole
EXPERT = re.compile(r"\.experts?\.(\d+)\.")
BEHIND: Mapping[TensorRole, tuple[TensorRole, TensorRole | None]] = {  # role -> the matrix in front, and its gate
    R.O: (R.V, None),
    R.DOWN: (R.UP, R.GATE),
    R.EXPERT_DOWN: (R.EXPERT_UP, R.EXPERT_GATE),
    R.SHARED_DOWN: (R.SHARED_UP, R.SHARED_GATE),
}


@dataclass(frozen=True)
class MatrixGroup:
    """Modules of a checkpoint whose matrices have the same inputs, and what stands in front.

    `norm` is a tensor of the checkpoint, `source` a module of it; at most one of them is named.
    """

    modules: tuple[str, ...]
    inputs: Inputs
    expert: int = 0
    norm: str = ""
    source: str = ""

    @property
    def kind(self) -> tuple[str, ...]:
        """The same in every layer."""
        return tuple(re.sub(r"\d+", "#", name) for name in (*self.modules, self.norm, self.source))


@dataclass(frozen=True)
class LayerMatrices:
    """What is known of a layer that all inputs went through.

    `modules` are those of the checkpoint that are quantized, each with the parameter of the loaded model that it lies
    in; `norms` and `inputs` are by parameters.
    """

    modules: Mapping[str, str]
    roles: Mapping[str, TensorRole]  # of the checkpoint's tensors
    inputs: Mapping[str, Inputs]
    norms: Mapping[str, str]
    tensors: Mapping[str, str]  # parameter of the loaded model -> tensor of the checkpoint, one for one

    def groups(self, with_fronts: bool) -> list[MatrixGroup]:
        """The groups, one that stands in front of another before it."""
        found: dict[tuple[int, int], list[str]] = {}
        for module, parameter in self.modules.items():
            if parameter in self.inputs:
                found.setdefault((id(self.inputs[parameter]), self._expert(module)), []).append(module)
        groups = [self._group(tuple(modules), with_fronts) for modules in found.values()]
        behind = {module for group in groups if group.source for module in group.modules}
        return sorted(groups, key=lambda group: bool(behind.intersection(group.modules)))

    def unseen(self) -> list[str]:
        """Modules that nothing went into: names that the loaded model has not."""
        return [module for module, parameter in self.modules.items() if parameter not in self.inputs]

    def _expert(self, module: str) -> int:
        found = EXPERT.search(f"{module}.")
        return int(found[1]) if found and self.inputs[self.modules[module]].experts > 1 else 0

    def _group(self, modules: tuple[str, ...], with_fronts: bool) -> MatrixGroup:
        inputs, expert = self.inputs[self.modules[modules[0]]], self._expert(modules[0])
        if not with_fronts:
            return MatrixGroup(modules, inputs, expert)
        return MatrixGroup(modules, inputs, expert, self._norm(modules), self._source(modules))

    def _norm(self, modules: Sequence[str]) -> str:
        """The norm in front, where all that it goes into is quantized: a router would have to take factors too."""
        mine = {self.modules[module] for module in modules}
        inputs = self.inputs[next(iter(mine))]
        fed = {parameter for parameter, its in self.inputs.items() if its is inputs}
        norms = {self.norms.get(parameter, "") for parameter in mine}
        return self.tensors.get(norms.pop(), "") if fed == mine and len(norms) == 1 and inputs.experts == 1 else ""

    def _source(self, modules: Sequence[str]) -> str:
        """The matrix in front, of the same block: v of o, up of down where a gate stands beside it."""
        if len(modules) != 1 or (role := self.roles[f"{modules[0]}.weight"]) not in BEHIND:
            return ""
        front, gate = BEHIND[role]
        block = modules[0].rpartition(".")[0]
        beside = {self.roles[f"{name}.weight"]: name for name in self.modules if name.rpartition(".")[0] == block}
        return beside.get(front, "") if gate is None or gate in beside else ""


def source_rows(rows: int, columns: int, heads: int) -> Source | None:
    """Which row of the matrix in front feeds each column; None where they cannot be paired.

    `rows` are those of the matrix in front, `columns` those of the one behind, `heads` the query heads.
    """
    if rows == columns:
        return Source.one_to_one(columns)
    if not heads or columns % heads or rows % (columns // heads):
        return None
    size = columns // heads
    return Source.heads(heads, rows // size, size) if heads % (rows // size) == 0 else None
