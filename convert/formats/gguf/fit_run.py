"""The files of a gguf stage's `fit:`: costs, choices, candidates written and compared, the best of them kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from convert import architectures
from convert.bundle import Artifact, Bundle, Role
from convert.errors import StageError
from convert.files import write_text
from convert.formats.gguf import fit_costs
from convert.formats.gguf.file_plan import FilePlan
from convert.formats.gguf.fit import Mixture, Open, Target, mixtures, target_of
from convert.formats.gguf.fit_costs import CostMemory, Costs, Kept
from convert.formats.gguf.fit_options import Fit
from convert.formats.gguf.fit_proof import Judge, Proved
from convert.formats.gguf.fit_weighing import Known, importance, weighings
from convert.formats.gguf.imatrix import Imatrix
from convert.formats.gguf.writer import write_files
from convert.model import fisher_file
from convert.progress import Progress
from convert.source.checkpoint import read_config

KIND, CANDIDATE = "json", "candidate-"


def write_fits(opened: Open, fits: Sequence[Fit], source: Bundle, work: Work) -> tuple[list[Artifact], list[Artifact]]:
    """The files, and beside each how its types were chosen; with `work.prove` candidates are compared first."""
    known, progress = _known(source, opened), work.progress
    progress.note(f"fit: types are chosen by {known.words}")
    if known.fisher is None:
        remedy = "`from:` a calibration stage with `fisher: true` knows what errors cost"
        progress.warn(f"fit: costs are guessed, by {known.words}; {remedy}")
    memory = CostMemory(work.kept, source, _digest(known.imatrix))
    costs = fit_costs.costs(known, opened.free_tensors, opened.kinds, Kept(memory, progress))
    _check_numbers(costs)
    judge: Judge | None = Judge(source, known.held_out, known.imatrix, work.kept / "reference")
    if judge and (lack := judge.lacks() if work.prove else "prove: false"):
        (progress.warn if work.prove else progress.note)(f"fit: candidates are not compared: {lack}")
        judge = None
    files: list[Artifact] = []
    reports: list[Artifact] = []
    for one in fits:
        made, report = _Fitting(opened, costs, one, known).write(work, judge, {a.path.name for a in files})
        files += made
        reports.append(report)
    return files, reports


@dataclass(frozen=True)
class Work:
    """Where files go, who is told, and whether candidates are compared."""

    out: Path
    progress: Progress
    prove: bool

    @property
    def kept(self) -> Path:
        """What is remembered for the next budget."""
        return fit_costs.folder_of(self.out)


def _known(source: Bundle, opened: Open) -> Known:
    """What types can be chosen by, of what lies there."""
    config = read_config(next(iter(source.of(Role.CONFIG))).path.parent)
    family = architectures.find(config)
    gradients = source.of(Role.GRADIENTS)
    fisher = fisher_file.load(gradients[0].path) if gradients else None
    return Known(family, family.text(config), fisher, opened.conversion.imatrix)


def _importance(known: Known, opened: Open) -> Callable[[str, int], np.ndarray | None]:
    """What encoders are given, as costs were measured with it."""
    tensors = {tensor.name: tensor for tensor in opened.free_tensors}
    how = weighings(known, list(tensors.values()))

    def of(name: str, columns: int) -> np.ndarray | None:
        return importance(known, tensors[name], how[name]) if name in tensors else None

    return of


def _check_numbers(costs: Costs) -> None:
    """Raise StageError for a tensor that no type can hold."""
    for name, kinds in costs.items():
        if not any(cost < float("inf") for cost in kinds.values()):
            raise StageError(f"tensor {name}", "has values that are not finite", "numbers", "the checkpoint is damaged")


def _digest(imatrix: Imatrix | None) -> str:
    """Of the matrix that is used: by what it holds, wherever it lies."""
    found = hashlib.sha256()
    for name, entry in sorted(imatrix.entries.items()) if imatrix else ():
        found.update(name.encode() + entry.values.tobytes() + entry.counts.tobytes())
    return found.hexdigest() if imatrix else ""


@dataclass(frozen=True, eq=False)
class _Fitting:
    """One file to be made."""

    opened: Open
    costs: Costs
    fit: Fit
    known: Known

    def write(self, work: Work, judge: Judge | None, taken: set[str]) -> tuple[tuple[Artifact, ...], Artifact]:
        """The best of the candidates under its name, the others gone; and the report of it."""
        target = target_of(self.fit, self.opened)
        candidates = mixtures(self.opened, self.costs, target, self.fit.like, several=judge is not None)
        written = self._written(work, candidates, target)
        proved: Sequence[Proved | None] = [None] * len(written)
        if judge is not None:
            proved = judge.prove([one.files[0].path for one in written], work.out, work.progress)
        tried = [replace(one, proved=proof) for one, proof in zip(written, proved, strict=True)]
        best = min(tried, key=lambda one: one.lost)
        for file in (file for one in tried if one is not best for file in one.files):
            file.path.unlink()
        made = _named(best, taken)
        for line in self._lines(tried, sum(file.size for file in made), made[0].path.name, target):
            work.progress.note(line)
        words = self._report(best, tried, target)
        name = made[0].path.name.removesuffix(".gguf").partition("-0000")[0] + ".fit.json"
        return made, write_text(work.out / name, json.dumps(words, indent=1) + "\n", KIND)

    def _written(self, work: Work, candidates: Sequence[Mixture], target: Target) -> list[_Candidate]:
        """Every candidate's files, from one pass over the weights; their names are not yet what they will be."""
        plans = [self.opened.plan(candidate) for candidate in candidates]
        volumes = [self.opened.shards(replace(p, name=f"{CANDIDATE}{n}.gguf")) for n, p in enumerate(plans)]
        weights = _importance(self.known, self.opened)
        group = replace(self.opened.conversion.text, volumes=tuple(volumes), importance=weights)
        work.progress.start(f"writing {plans[0].name}", group.source_bytes)
        made = {artifact.path.name: artifact for artifact in write_files(work.out, group, work.progress)}
        return [
            _Candidate(mixture, plan, tuple(made[part.name] for part in volume))
            for mixture, plan, volume in zip(candidates, plans, volumes, strict=True)
            if volume[0].name in made  # else a type cannot hold a value, which is said
        ]

    def _lines(self, tried: Sequence[_Candidate], size: int, name: str, target: Target) -> Iterator[str]:
        unit = "KL" if self.known.fisher is not None else "cost"
        for one in tried:
            real = f", KL {one.proved.kl:.5f} of {one.proved.tokens} tokens" if one.proved else ""
            yield f"fit {self.fit}: {one.mixture.why}: predicted {unit} {one.mixture.predicted:.5f}{real}"
        used = f", {size / target.asked:.2%} of {target.asked:,}" if target.of_file else ""
        yield f"fit {self.fit}: {name}: {size:,} bytes{used}"

    def _report(self, best: _Candidate, tried: Sequence[_Candidate], target: Target) -> Mapping[str, object]:
        costs = {name: self.costs[name][kind] for name, kind in best.mixture.types.items()}
        total = sum(costs.values()) or 1.0
        matrices = [
            {
                "name": info.name,
                "type": info.type.name,
                "values": prod(info.shape),
                "bytes": info.nbytes,
                "cost": costs[info.name],
                "share": costs[info.name] / total,
            }
            for info in best.plan.infos
            if info.name in costs
        ]
        return {
            "asked": str(self.fit),
            "budget": target.asked,
            "bytes": sum(file.size for file in best.files),
            "by": self.known.words,
            **best.words,
            "candidates": [one.words for one in tried],
            "matrices": matrices,
        }


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A mix, and its files."""

    mixture: Mixture
    plan: FilePlan
    files: tuple[Artifact, ...]
    proved: Proved | None = None

    @property
    def lost(self) -> float:
        """What decides between candidates: what was measured, else what is predicted."""
        return self.proved.kl if self.proved else self.mixture.predicted

    @property
    def words(self) -> dict[str, object]:
        """For the report."""
        measured = asdict(self.proved) if self.proved else None
        return {"why": self.mixture.why, "predicted": self.mixture.predicted, "measured": measured}


def _named(best: _Candidate, taken: set[str]) -> tuple[Artifact, ...]:
    """The files under the name that says what they came to; a second of the same bits has a number."""
    start = best.plan.name.removesuffix(".gguf")
    others = {name.partition("-0000")[0].removesuffix(".gguf") for name in taken}
    number = next(n for n in range(1, 100) if (start if n == 1 else f"{start}-{n}") not in others)
    start = start if number == 1 else f"{start}-{number}"
    made = []
    for file in best.files:
        path = file.path.with_name(start + file.path.name.removeprefix(CANDIDATE).lstrip("0123456789"))
        made.append(replace(file, path=file.path.rename(path)))
    return tuple(made)
