"""What a page shows of the types of the key-value cache, as plain values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from validate.report.schema import Report
from validate.report.schema_caches import CacheRowEntry, KvCacheEntry, NeedlesEntry
from validate.report.words import NOTHING, count, percent, scientific, scientific_range, size, visible

NOT_POSSIBLE = "not possible"
METHOD = (
    "KL and the most likely token are compared with the first row: the same file with an F32 cache and without flash "
    "attention. All others have it on, which quantized V needs; f16, llama.cpp's default, shows what it does by "
    "itself: on quantized weights, whose activations are rounded too, any change makes that much. "
    "Memory is what llama.cpp says of a cache for so many tokens."
)
FACTS = (
    "Facts found: of the codes that are hidden in a text of so many tokens, those whose every token is the most likely "
    "one when they are asked for at its end."
)


@dataclass(frozen=True)
class CacheRow:
    """One row: a pair of types of an output, by index. `kl` is empty for the exact cache itself."""

    index: int
    k: str
    v: str
    per_1k: str
    at_limit: str
    kl: str
    interval: str
    top1: str
    found: Sequence[str]  # by length


@dataclass(frozen=True)
class Caches:
    """The table: `limit` heads the column of the largest caches, `lengths` those of facts; then what has to be said."""

    limit: str
    lengths: Sequence[str]
    rows: Sequence[CacheRow]
    notes: Sequence[tuple[int, str]]


def caches(report: Report) -> Caches | None:
    """The cache types of all outputs; None where no recipe asked for any."""
    found = [(i, entry) for i, output in enumerate(report["outputs"]) if (entry := output.get("kv_cache"))]
    if not found:
        return None
    lengths = sorted({n["tokens"] for _, entry in found for row in entry["rows"] for n in row["needles"]})
    limits = {entry["limit"] for _, entry in found}
    head = f"{count(limits.pop())} tokens" if len(limits) == 1 else "as many as it reads"
    rows = [_row(i, row, lengths) for i, entry in found for row in entry["rows"]]
    return Caches(head, [count(n) for n in lengths], rows, [(i, said) for i, entry in found for said in _notes(entry)])


def _row(index: int, row: CacheRowEntry, lengths: Sequence[int]) -> CacheRow:
    names = visible(row["k"]), visible(row["v"])
    if row["reason"]:
        return CacheRow(index, *names, NOT_POSSIBLE, NOTHING, NOTHING, "", NOTHING, [NOTHING for _ in lengths])
    by_length = {needles["tokens"]: needles for needles in row["needles"]}
    kl, low, high = row["kl"], row["kl_low"], row["kl_high"]
    return CacheRow(
        index,
        *names,
        _size(row["bytes_1k"]),
        _size(row["bytes_limit"]),
        NOTHING if kl is None else scientific(kl),
        "" if low is None or high is None else scientific_range(low, high),
        NOTHING if row["top1"] is None else percent(row["top1"], 2),
        [_found(by_length.get(length)) for length in lengths],
    )


def _size(value: int | None) -> str:
    return NOTHING if value is None else size(value)


def _found(needles: NeedlesEntry | None) -> str:
    return NOTHING if needles is None else f"{needles['found']} of {needles['asked']}"


def _notes(entry: KvCacheEntry) -> Iterator[str]:
    for row in entry["rows"]:
        if row["reason"]:
            types = row["k"] if row["k"] == row["v"] else f"{row['k']}/{row['v']}"
            yield visible(f"a cache of type {types} is not possible: {row['reason']}")
    if entry["stopped"]:
        yield visible(f"no longer texts were read: {entry['stopped']}")
