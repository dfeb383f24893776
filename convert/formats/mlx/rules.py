"""How the tensors of a checkpoint become those of an MLX model: left out, renamed, cut, transposed, stacked. As data.

A model of mlx-lm or mlx-vlm renames and reshapes what a checkpoint holds when it loads it (`sanitize`); a folder that
is written once is written as it is after that. convert/formats/mlx/models.py says it for every model, this is how.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np

from convert.errors import InputError
from convert.json_types import JsonObject
from convert.source.untrusted import listed

STACKED = "e"  # the group of a pattern that counts what is stacked
Number = int | str  # a word of the config, where it is text


@dataclass(frozen=True)
class View:
    """What of a tensor is taken, and how it lies then: seen in `shape`, cut along `axis`, its axes in another order.

    `part`: "1/2" and "2/2" are halves, ":a" and "a:" what is before and behind, "::2" and "1::2" every other one.
    Numbers may be words of the config. `plus` is added to every value.
    """

    shape: tuple[Number, ...] = ()
    axis: int = 0
    part: str = ""
    axes: tuple[int, ...] = ()
    plus: float = 0.0

    def cut(self, length: int, config: JsonObject) -> slice:
        """Where along the axis, which is so long."""
        if not self.part:
            return slice(0, length, 1)
        if "/" in self.part:
            number, count = map(int, self.part.split("/"))
            return slice(length // count * (number - 1), length // count * number, 1)
        ends = [self._number(word, config) if word else None for word in self.part.split(":")]
        return slice(*slice(*ends).indices(length))

    def _number(self, word: Number, config: JsonObject) -> int:
        found = word if isinstance(word, int) else int(word) if word.isdigit() else config.get(word)
        if not isinstance(found, int):
            raise InputError("config.json", f"has no {word}", "a number", "download it again")
        return found

    def shaped(self, shape: tuple[int, ...], config: JsonObject) -> tuple[int, ...]:
        """`shape` as the tensor is seen, before it is cut."""
        if not self.shape:
            return shape
        wanted = [number if number == -1 else self._number(number, config) for number in self.shape]
        known = prod(number for number in wanted if number != -1)
        return tuple(prod(shape) // known if number == -1 else number for number in wanted)

    def of_shape(self, shape: tuple[int, ...], config: JsonObject) -> tuple[int, ...]:
        """The shape of the view of a tensor of this shape."""
        seen = list(self.shaped(shape, config))
        if self.part:
            taken = self.cut(seen[self.axis], config)
            seen[self.axis] = len(range(taken.start, taken.stop, taken.step))
        return tuple(seen[axis] for axis in self.axes) if self.axes else tuple(seen)

    def of(self, values: np.ndarray, config: JsonObject) -> np.ndarray:
        """The view of values."""
        seen = values.reshape(self.shaped(values.shape, config))
        if self.part:
            places = [slice(None)] * seen.ndim
            places[self.axis] = self.cut(seen.shape[self.axis], config)
            seen = seen[tuple(places)]
        return seen.transpose(self.axes) if self.axes else seen

    @property
    def keeps_columns(self) -> bool:
        """Whether the last axis is the tensor's own, whole."""
        last = not self.axes or self.axes[-1] == len(self.axes) - 1
        return last and not (self.part and self.axis == -1) and (not self.shape or self.shape[-1] == -1)


WHOLE = View()


@dataclass(frozen=True)
class Rule:
    """What becomes of tensors whose whole name a pattern matches: nothing where there is no `to`.

    Those that differ in the pattern's group `e` are stacked, in its order.
    """

    pattern: str
    to: tuple[tuple[str, View], ...] = ()

    @classmethod
    def renamed(cls, pattern: str, to: str, view: View = WHOLE) -> Rule:
        """One for one."""
        return cls(pattern, ((to, view),))


@dataclass(frozen=True)
class Model:
    """A model of mlx-lm or mlx-vlm: what becomes of a checkpoint's tensors, and what of them is quantized.

    Modules are said by the ends of their names.
    """

    renames: tuple[tuple[str, str], ...] = ()  # beginnings of names: the first that fits is replaced; then the rules
    rules: tuple[Rule, ...] = ()
    raw: tuple[str, ...] = ()  # weights that are no module's which can be quantized
    eight: tuple[str, ...] = ()  # modules that its own predicate gives 8 bits in groups of 64
    whole: tuple[str, ...] = ()  # those that it leaves as they are
    uncast: tuple[str, ...] = ()  # parts of the names of tensors that keep their type
    towers: tuple[str, ...] = ()  # parts of the names of modules of another modality, which stay as they are
    library: str = "mlx-lm"
    text: str = ""  # where the text model's config lies in config.json
    head: str = "lm_head.weight"
    copies_head: bool = False  # has a head always: a copy of the embedding, where the two are one
    words: Mapping[str, object] = field(default_factory=dict, hash=False)  # of a config that lacks them, as it wants
    refuses: Mapping[str, str] = field(default_factory=dict, hash=False)  # words of a config -> why it is not made


@dataclass(frozen=True)
class Piece:
    """A tensor of the checkpoint, and what is taken of it."""

    source: str
    view: View = WHOLE


@dataclass(frozen=True)
class Placed:
    """A tensor of the model: pieces stacked along a first axis of their own, or a single one as it is."""

    name: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    stacked: bool = False


LEFT_OUT = re.compile(r".*\b(?:rotary_emb\.inv_freq|rope\.inv_freq|position_ids|masked_bias)$")


def placed(model: Model, shapes: Mapping[str, tuple[int, ...]], config: JsonObject) -> list[Placed]:
    """The model's tensors of a checkpoint's (name -> shape), in its order. Raises InputError for experts that lack."""
    found: dict[str, dict[int, Piece]] = {}
    for name in shapes:
        for to, number, piece in _named(model, name):
            place = found.setdefault(to, {})
            if number in place:
                raise InputError(name, f"becomes {to}, which {place[number].source} is", "a name of its own")
            place[number] = piece
    return [_joined(name, pieces, shapes, config) for name, pieces in found.items()]


def _named(model: Model, name: str) -> Iterator[tuple[str, int, Piece]]:
    """What becomes of a tensor: names, each with its place in a stack or -1."""
    if LEFT_OUT.match(name):
        return
    own = next((new + name.removeprefix(old) for old, new in model.renames if name.startswith(old)), name)
    for rule in model.rules:
        if match := re.fullmatch(rule.pattern, own):
            number = int(match[STACKED]) if STACKED in match.re.groupindex else -1
            yield from ((match.expand(to), number, Piece(name, view)) for to, view in rule.to)
            return
    yield own, -1, Piece(name)


def _joined(
    name: str, pieces: Mapping[int, Piece], shapes: Mapping[str, tuple[int, ...]], config: JsonObject
) -> Placed:
    seen = {n: piece.view.of_shape(shapes[piece.source], config) for n, piece in pieces.items()}
    if -1 in pieces:
        return Placed(name, seen[-1], (pieces[-1],))
    if lacking := [str(n) for n in range(max(pieces) + 1) if n not in pieces]:
        raise InputError(name, f"lacks {listed(lacking)} of its {max(pieces) + 1} experts", "all of them")
    if len(set(seen.values())) > 1:
        raise InputError(name, f"has experts of the shapes {sorted(set(seen.values()))}", "one shape")
    ordered = tuple(pieces[n] for n in range(len(pieces)))
    return Placed(name, (len(ordered), *seen[0]), ordered, stacked=True)
