"""Names beside points such that none lies on another: what would, is left out, and the table has it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LETTER, BOLD = 0.55, 0.62  # of the font's size, a letter's width: wider than most
POINT = 8.0  # half a point's width, its ring included
_RINGS = (12.5, 20.0, 32.0, 46.0, 62.0, 80.0, 105.0)
_ANGLES = (0, 180, 45, -45, 135, -135, 90, -90, 22, -22, 158, -158, 67, -67, 112, -112)
NEAR = _RINGS[0]


@dataclass(frozen=True)
class Box:
    """A rectangle; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def within(self, other: Box) -> bool:
        return (
            other.left <= self.left
            and self.right <= other.right
            and other.top <= self.top
            and self.bottom <= other.bottom
        )


@dataclass(frozen=True)
class Label:
    """Where a name stands: `x` is its left end, `y` its base line; `far` when a line should lead to it."""

    x: float
    y: float
    box: Box
    far: bool


Spot = tuple[float, float]
Line = tuple[Spot, Spot]


@dataclass(frozen=True)
class Scene:
    """What names have to keep clear of: the ends of `room`, the points, other words, and `lines` where that can be."""

    room: Box
    points: Sequence[Spot]
    lines: Sequence[Line]
    font: float
    words: Sequence[Box] = ()


def place(scene: Scene, names: Sequence[str], first: Sequence[int]) -> list[Label | None]:
    """A place for each point's name, None where there is none free. Those in `first` are bold and choose first."""
    boxes = [Box(x - POINT, y - POINT, x + POINT, y + POINT) for x, y in scene.points]
    leaders: list[Line] = []
    labels: list[Label | None] = [None] * len(names)
    bold = set(first)
    for i in [*first, *(i for i in range(len(names)) if i not in bold)]:
        others = [*boxes[:i], *boxes[i + 1 :], *scene.words]
        spot = scene.points[i]
        width = (BOLD if i in bold else LETTER) * scene.font * len(names[i])
        tried = _candidates(spot, width, scene.font * 1.1)
        free = (label for label in tried if _free(spot, label, scene, others, leaders))
        label = labels[i] = _clearest(free, scene.lines)
        if label is not None:
            boxes.append(label.box)
            if label.far:
                leaders.append((spot, end_of(spot, label)))
    return labels


def _clearest(free: Iterable[Label], lines: Sequence[Line]) -> Label | None:
    """The first place that none of the lines crosses, else the first; None where there is none."""
    first = None
    for label in free:
        if not any(_through(line, label.box) for line in lines):
            return label
        first = first or label
    return first


def _free(spot: Spot, label: Label, scene: Scene, others: Sequence[Box], leaders: Sequence[Line]) -> bool:
    """Whether neither the name nor the line that leads to it touches anything."""
    if not label.box.within(scene.room) or any(label.box.meets(box) for box in others):
        return False
    if any(_through(leader, label.box) for leader in leaders):
        return False
    if not label.far:
        return True
    own = _outside(spot, end_of(spot, label))
    return not any(_through(own, box) for box in others) and not any(_cross(*own, *leader) for leader in leaders)


def _candidates(point: Spot, width: float, height: float) -> list[Label]:
    """Near places before far ones; to the right of the point first."""
    found = []
    for ring in _RINGS:
        for angle in _ANGLES:
            x = point[0] + ring * math.cos(math.radians(angle))
            y = point[1] - ring * math.sin(math.radians(angle))
            left = x if abs(angle) < 90 else x - width if abs(angle) > 90 else x - width / 2
            lift = height / 2 * math.sin(math.radians(angle))
            middle = y - lift
            box = Box(left - 1, middle - height / 2, left + width + 1, middle + height / 2)
            found.append(Label(left, middle + height * 0.32, box, ring != NEAR))
    return found


def end_of(point: Spot, label: Label) -> Spot:
    """Where the line that leads from the point to a far name ends."""
    box = label.box
    return min(max(point[0], box.left), box.right), min(max(point[1], box.top), box.bottom)


def _outside(spot: Spot, end: Spot) -> Line:
    """The line without its part on the point: where two points lie on each other it cannot but touch both."""
    share = min(1.0, POINT * 1.5 / max(math.dist(spot, end), 1e-9))
    return (spot[0] + (end[0] - spot[0]) * share, spot[1] + (end[1] - spot[1]) * share), end


def _through(line: Line, box: Box) -> bool:
    """Whether a line has a part inside the box."""
    (x, y), (x2, y2) = line
    enters, leaves = 0.0, 1.0
    for start, way, low, high in ((x, x2 - x, box.left, box.right), (y, y2 - y, box.top, box.bottom)):
        if way == 0:
            if not low < start < high:
                return False
            continue
        one, other = (low - start) / way, (high - start) / way
        enters, leaves = max(enters, min(one, other)), min(leaves, max(one, other))
    return enters < leaves


def _cross(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float], d: tuple[float, float]) -> bool:
    """Whether the line from a to b and that from c to d cross."""

    def side(p: Spot, q: Spot, r: Spot) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
