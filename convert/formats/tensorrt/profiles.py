"""Optimization profiles: for every axis that changes, the smallest, the usual and the largest size.

One engine may hold several. Each costs: a profile has its own copy of the weights in the engine (101 MB of weights:
an engine of 101 MB with one profile, of 202 MB with two; TensorRT for RTX 1.7.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from convert.errors import InputError
from convert.formats.tensorrt.graphs import GraphHeader, Tensor

Range = tuple[int, int, int]  # smallest, usual, largest

LENGTHS = ("sequence", "patches")  # the axis that says which graphs a profile is for
OTHERWISE: Mapping[str, Range] = {"batch": (1, 1, 1), "images": (1, 1, 1), "past": (0, 0, 0)}
KNOWN = (*LENGTHS, *OTHERWISE)
TOTALS = ("total", "total_sequence", "total_sequence_length")  # other writers' names of past + sequence
LONGEST_SEQUENCE, LONGEST_PAST = 2048, 4096  # of the defaults; a model made for less has less
USUAL_PATCHES, MOST_PATCHES = 2048, 8192  # an image of 644 x 644, of 1288 x 1288: memory grows with the square


@dataclass(frozen=True)
class Profile:
    """Ranges by axis, under a name for people."""

    name: str
    ranges: Mapping[str, Range]


@dataclass(frozen=True)
class Made:
    """What a model was made for, as far as its configs say."""

    positions: int | None = None
    patches: int | None = None  # of its largest image
    patches_at_once: int = 1  # that make one image token


def defaults(header: GraphHeader, made: Made) -> list[Profile]:
    """For a text graph, prefill and decode; for a vision graph, one to four images.

    Prefill takes a past too: long prompts are read in pieces.
    """
    if "patches" in header.axes:
        most = min(MOST_PATCHES, made.patches or MOST_PATCHES)
        return [Profile("image", {"patches": (4, min(USUAL_PATCHES, most), most), "images": (1, 1, 4)})]
    longest = made.positions
    sequence = min(LONGEST_SEQUENCE, longest or LONGEST_SEQUENCE)
    past = min(LONGEST_PAST, max(1, (longest or LONGEST_PAST + 1) - 1))
    return [
        Profile("prefill", {"sequence": (1, min(512, sequence), sequence), "past": (0, 0, past)}),
        Profile("decode", {"sequence": (1, 1, 1), "past": (1, min(1024, past), past)}),
    ]


def of_graph(header: GraphHeader, asked: Sequence[Profile], made: Made) -> list[Profile]:
    """The profiles of a graph: those of `asked` that name its length, else the defaults."""
    mine = [profile for profile in asked if any(name in profile.ranges for name in LENGTHS if name in header.axes)]
    axes = {term for axis in header.axes for term in _terms(axis)}
    found = [
        Profile(profile.name, {axis: sizes for axis, sizes in profile.ranges.items() if axis in axes})
        for profile in mine or defaults(header, made)
    ]
    return found if "past" in axes else _outer(found)


def _outer(profiles: Sequence[Profile]) -> list[Profile]:
    """Those that lie in no other: looking up embeddings is the same work for one token as for many."""

    def within(inner: Profile, outer: Profile) -> bool:
        pairs = [(inner.ranges.get(a, OTHERWISE.get(a)), outer.ranges.get(a, OTHERWISE.get(a))) for a in KNOWN]
        return all(one is None or (two and two[0] <= one[0] and one[2] <= two[2]) for one, two in pairs)

    kept: list[Profile] = []
    for profile in profiles:
        if not any(within(profile, other) for other in kept):
            kept = [other for other in kept if not within(other, profile)] + [profile]
    return kept


def _terms(axis: str) -> list[str]:
    return ["past", "sequence"] if axis in TOTALS else [term.strip() for term in axis.split("+")]


def shapes(profile: Profile, inputs: Iterable[Tensor], where: str) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Input -> its smallest, usual and largest shape. Raises InputError for an axis that nobody gave a range."""
    made = {}
    for tensor in inputs:
        sizes = [_range(size, profile, where, tensor.name) for size in tensor.shape]
        made[tensor.name] = tuple(tuple(size[which] for size in sizes) for which in range(3))
    return made


def _range(size: int | str, profile: Profile, where: str, tensor: str) -> Range:
    """The range of an axis; `past + sequence` is the sum of theirs."""
    if isinstance(size, int):
        return size, size, size
    ranges = [_named(term, profile) for term in _terms(size)]
    if any(one is None for one in ranges):
        raise InputError(where, f"{tensor} has an axis '{size}'", f"an axis of {', '.join(KNOWN)}, or a sum of them")
    low, usual, high = (sum(one[which] for one in ranges if one) for which in range(3))
    return low, usual, high


def _named(axis: str, profile: Profile) -> Range | None:
    if axis.isdecimal():
        return int(axis), int(axis), int(axis)
    return profile.ranges.get(axis, OTHERWISE.get(axis))
