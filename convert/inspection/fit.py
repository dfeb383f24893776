"""`convert fit`: which GGUF files of a model fit into a memory, and how fast they could be."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod

from convert.errors import PlanError, Problem
from convert.estimate.fit import Offload, beyond_its_own, of_host, offload, on_gpu_bytes
from convert.estimate.memory import Memory, estimate
from convert.estimate.model_file import ModelFile
from convert.estimate.setting import Setting
from convert.estimate.speed import Bandwidth, tokens_per_second
from convert.inspection.fit_model import Candidate, FitModel
from convert.json_types import JsonDict
from convert.table import aligned, plain, size
from quantize.mixes import MIXES

LEGACY = ("Q4_0", "Q4_1", "Q5_0", "Q5_1")  # a k-quant is better at their size
HEADS = ("type", "file", "bits/w", "weights", "cache", "buffers", "projector", "all", "fits", "layers", "tok/s", "")
LEFT = ("type", "fits", "")
NOTHING = "-"
PARTS = 3  # of the smallest file, that are named where it does not fit
SERVER_TEXTS = 4  # llama-server's own -np


@dataclass(frozen=True)
class Budget:
    """Bytes of memory, of a GPU, of the host or of both; `reserve` is left free of the GPU, or of the host alone."""

    gpu: int | None = None
    ram: int | None = None
    reserve: int = 0

    @property
    def main(self) -> int:
        """What the model is to fit into, all of it."""
        whole = self.gpu if self.gpu is not None else self.ram
        assert whole is not None
        return whole - self.reserve


@dataclass(frozen=True)
class Row:
    """One file. Bytes are those of the memory that is asked about: the GPU's, the host's where there is none."""

    type: str
    file_bytes: int
    bits_per_weight: float
    weights_bytes: int
    cache_bytes: int
    compute_bytes: int
    output_bytes: int
    projector_bytes: int
    total_bytes: int
    host_bytes: int  # beside a GPU: the embedding, layers that do not fit, the output buffer
    fits: bool  # all of it
    runs: bool  # or a part of it on the GPU, and the rest in the host's memory
    best: bool
    gpu_layers: int | None  # -ngl; None without a GPU
    layers: int  # the output counted as one
    tokens_per_second: float | None  # at most; None where no bandwidth says
    needs_imatrix: bool


@dataclass(frozen=True)
class Fit:
    """What was asked, and a row for each file from large to small."""

    model: str
    context: int
    cells: int
    cache_type: str
    flash_attention: bool
    texts: int
    images: bool
    gpu_bytes: int | None
    ram_bytes: int | None
    reserve_bytes: int
    best: str  # empty where none fits
    rows: Sequence[Row]
    notes: Sequence[str]

    def to_json(self) -> JsonDict:
        """One JSON object; `version` changes when a word of it does."""
        return {"version": 1, **asdict(self)}

    def lines(self) -> Iterator[str]:
        """The table for people."""
        memories = (("GPU", self.gpu_bytes), ("RAM", self.ram_bytes), ("left free", self.reserve_bytes or None))
        budget = ", ".join(f"{said} {amount:,} bytes" for said, amount in memories if amount is not None)
        yield f"{plain(self.model)}: {budget}; context {self.context:,} tokens, cache {self.cache_type}"
        cells = [_cells(row) for row in self.rows]
        kept = [i for i, head in enumerate(HEADS) if not head or any(row[i] != NOTHING for row in cells)]
        heads = tuple(HEADS[i] for i in kept)
        yield from aligned(heads, [tuple(row[i] for i in kept) for row in cells], [h for h in heads if h not in LEFT])
        yield from (f"note: {plain(note)}" for note in self.notes)


def _cells(row: Row) -> tuple[str, ...]:
    layers = NOTHING if row.gpu_layers is None else f"{row.gpu_layers}/{row.layers}"
    speed = NOTHING if row.tokens_per_second is None else _speed(row.tokens_per_second)
    mark = "<- the best that fits" if row.best else "needs an imatrix" if row.needs_imatrix else ""
    buffers = row.compute_bytes + row.output_bytes
    return (
        row.type,
        size(row.file_bytes),
        f"{row.bits_per_weight:.2f}",
        size(row.weights_bytes),
        size(row.cache_bytes),
        size(buffers),
        size(row.projector_bytes) if row.projector_bytes else NOTHING,
        size(row.total_bytes),
        "yes" if row.fits else "in part" if row.runs else "no",
        layers,
        speed,
        mark,
    )


def _speed(tokens: float) -> str:
    return f"{tokens:.3g}" if tokens < 100 else f"{tokens:,.0f}"


def fit(model: FitModel, setting: Setting, budget: Budget, bandwidth: Bandwidth) -> Fit:
    """A row for each file. Raises PlanError where nothing of any runs, with what takes the memory of the smallest."""
    memory = estimate(model.candidates[0].model, setting, model.projector)
    rows = [_row(candidate, memory, budget, bandwidth) for candidate in model.candidates]
    if not any(row.runs for row in rows):
        raise PlanError(_too_small(model.candidates[-1].model, rows[-1], memory, budget))
    best = next((row for row in rows if row.fits and row.type in _worth(rows)), None)
    return Fit(
        model.name,
        setting.context,
        setting.cells,
        str(setting.cache),
        setting.cache.flash_attention,
        setting.texts,
        setting.images,
        budget.gpu,
        budget.ram,
        budget.reserve,
        best.type if best else "",
        [replace(row, best=row is best) for row in rows],
        (*model.notes, *_notes(model, setting, memory, budget)),
    )


def _row(candidate: Candidate, memory: Memory, budget: Budget, bandwidth: Bandwidth) -> Row:
    model = candidate.model
    whole, count = sum(weight.nbytes for weight in model.weights), sum(prod(w.shape) for w in model.weights)
    has_gpu = budget.gpu is not None
    weights = on_gpu_bytes(model) if has_gpu else whole
    total = weights + (memory.beside_on_gpu if has_gpu else memory.beside)
    fits, share, part = total <= budget.main, 1.0, None
    if has_gpu:
        part = offload(model, memory, budget.main)
        share = 1.0 if fits else part.weights / weights
    host = _host_bytes(model, memory, part, fits) if part else 0
    runs = (fits or bool(part and part.layers)) and (budget.ram is None or not has_gpu or host <= budget.ram)
    return Row(
        candidate.type,
        model.size,
        8 * model.size / count,
        weights,
        memory.cache,
        memory.compute,
        0 if has_gpu else memory.output,
        memory.projector + memory.projector_compute,
        total,
        host,
        fits and runs,
        runs,
        False,
        part.layers if part else None,
        part.of if part else model.number("block_count") + 1,
        tokens_per_second(model, memory, bandwidth, share) if runs else None,
        candidate.needs_imatrix,
    )


def _host_bytes(model: ModelFile, memory: Memory, part: Offload, fits: bool) -> int:
    """What stays in the host's memory: what always does, and layers that are not on the GPU, with their cache."""
    always = sum(weight.nbytes for weight in of_host(model)) + memory.output
    if fits:
        return always
    return always + on_gpu_bytes(model) - part.weights + memory.cache - part.cache


def _worth(rows: Sequence[Row]) -> set[str]:
    """Types that may be the best: no more bytes than the model's own values need, none that another beats."""
    names = {row.type for row in rows}
    wasteful = {"F32"} if names & {"BF16", "F16"} else set()
    at_the_ends = {name for name in names if name in MIXES and MIXES[name].ends}  # the layers are as in a smaller one
    return names if len(rows) == 1 else names - wasteful - at_the_ends - set(LEGACY)


def _too_small(model: ModelFile, smallest: Row, memory: Memory, budget: Budget) -> Problem:
    """What the smallest takes, and which parts and tensors hold it."""
    groups = Counter[str]()
    for weight in model.weights:
        groups[re.sub(r"^blk\.\d+\.", "blk.*.", weight.name)] += weight.nbytes
    tensors = ", ".join(f"{name} {size(nbytes)}" for name, nbytes in groups.most_common(PARTS))
    got = (
        f"{budget.main:,} bytes, and the smallest, {smallest.type}, takes {smallest.total_bytes:,}: "
        f"weights {smallest.weights_bytes:,} (most of it {tensors}), {memory.parts(budget.gpu is not None)}"
    )
    remedy = "more memory, a shorter --context, a smaller --kv, or a smaller model"
    return Problem("--gpu" if budget.gpu is not None else "--ram", got, "", remedy)


def _notes(model: FitModel, setting: Setting, memory: Memory, budget: Budget) -> Iterator[str]:
    first = model.candidates[0].model
    if longer := beyond_its_own(first, setting):
        yield longer
    if setting.cells != setting.context:
        yield f"llama.cpp rounds the context up to {setting.cells:,} tokens"
    if budget.gpu is not None:
        yield "calculated, and compared with llama.cpp on a CPU only; what the GPU's driver takes itself is not counted"
    if setting.texts < SERVER_TEXTS:
        more = estimate(first, replace(setting, texts=SERVER_TEXTS)).cache - memory.cache
        if more:
            yield f"llama-server keeps {SERVER_TEXTS} texts unless it is told -np 1: {more:,} bytes more"
    if setting.outputs is not None:
        more = estimate(first, replace(setting, outputs=None)).compute - memory.compute
        if more:
            yield f"as llama-server and llama-cli run it; with logits of every token --all-logits: {more:,} bytes more"
