"""The picture of size against drift, its legend, and the marks that tie the table to it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from validate.report.html.axes import (
    Canvas,
    Family,
    LogAxis,
    at_floor,
    families,
    kl_axis,
    line,
    on_second_runtime,
    picture,
    text,
)
from validate.report.html.labels import LETTER, POINT, Box, Line, Scene, Spot, end_of, place
from validate.report.outputs import ends, short_names
from validate.report.schema import Report
from validate.report.words import plural, scientific, size, size_unit, visible


@dataclass(frozen=True)
class Point:
    """An output whose drift was measured."""

    index: int
    name: str
    label: str
    family: Family
    hollow: bool
    size: int
    kl: float
    ends: tuple[float, float]  # interval of kl
    failed: bool


def points(report: Report) -> list[Point]:
    """The outputs that have a size and a drift."""
    rows = zip(report["outputs"], short_names(report), on_second_runtime(report["outputs"]), strict=True)
    known = families(report)
    return [
        Point(
            i,
            name,
            visible(o["label"]),
            known[o["format"]],
            hollow,
            o["size_bytes"],
            kl,
            ends(o, "kl_mean") or (kl, kl),
            o["status"] == "failed",
        )
        for i, (o, name, hollow) in enumerate(rows)
        if (kl := o["metrics"].get("kl_mean")) is not None and o["size_bytes"] > 0
    ]


def frontier(shown: Sequence[Point]) -> list[Point]:
    """Those than which nothing smaller drifts less, the smallest first."""
    best: list[Point] = []
    for point in sorted(shown, key=lambda p: (p.size, p.kl)):
        if not best or point.kl < best[-1].kl:
            best.append(point)
    return best


def scatters(report: Report) -> list[Markup]:
    """The picture for a wide page and the one for a phone; the style sheet shows one of them."""
    shown = points(report)
    if not shown:
        return []
    floors = _floors(report, {p.label for p in shown})
    sizes = Canvas("sizes-wide", 1080, 560, 13), Canvas("sizes-narrow", 360, 440, 12)
    return [_scatter(shown, canvas, floors) for canvas in sizes]


def _floors(report: Report, drawn: Collection[str]) -> list[tuple[float, str]]:
    """KL and runtime of each noise floor whose output is drawn, the lowest first."""
    found = [
        (f["kl_mean"], visible(f["runtime"])) for f in report.get("noise_floor", []) if visible(f["output"]) in drawn
    ]
    return sorted(found)


WIDE = 1.0  # of the font, that a character takes at most: a stranger's runtime has any name


@dataclass(frozen=True)
class _Frame:
    """The room between the axes, and the axes."""

    room: Box
    x: LogAxis
    y: LogAxis
    font: float

    def spot(self, point: Point) -> Spot:
        return self.x.at(point.size), self.y.at(point.kl)


def _frame(shown: Sequence[Point], canvas: Canvas) -> _Frame:
    font = canvas.font
    room = Box(font * 4.2, font * 1.6, canvas.width - font * 0.5, canvas.height - font * 3.6)
    sizes = [p.size for p in shown]
    x = LogAxis(min(sizes) / 1.15, max(sizes) * 1.35, room.left + 10, room.right - 10)
    return _Frame(room, x, kl_axis([v for p in shown for v in (p.kl, p.ends[1])], room.bottom, room.top), font)


def _scatter(shown: Sequence[Point], canvas: Canvas, floors: Sequence[tuple[float, str]]) -> Markup:
    """Each output at its size and its KL, both logarithmic, with the frontier as a stair and the noise floors."""
    frame, best = _frame(shown, canvas), frontier(shown)
    corners = _corners(best, frame)
    spots = [frame.spot(p) for p in shown]
    room = Box(frame.room.left + 2, frame.room.top - 4, canvas.width - 2, frame.room.bottom - 2)
    noise, said = _noise(floors, frame)
    lines: list[Line] = [*pairwise(corners), *noise]
    taken = [box for _, box in said]
    labels = place(
        Scene(room, spots, lines, canvas.font, taken), [p.name for p in shown], [shown.index(p) for p in best]
    )
    body = [*_grid(frame), *_stair(corners, frame.room), *(line(*a, *b, "noise") for a, b in noise)]
    named = [(p, spot, label) for p, spot, label in zip(shown, spots, labels, strict=True) if label is not None]
    body += [line(*spot, *end_of(spot, label), "leader") for _, spot, label in named if label.far]
    body += [_drawn(p, spot, frame.y, p in best) for p, spot in zip(shown, spots, strict=True)]
    body += [text(label.x, label.y, p.name, "name best" if p in best else "name") for p, _, label in named]
    body += [word for word, _ in said]
    nameless = len(shown) - len(named)
    if nameless:
        words = f"{plural(nameless, 'point')} without a name, for want of room"
        body.append(text(frame.room.left, frame.room.bottom + canvas.font * 2.9, words, "axis"))
    title = f"Size against mean KL of {plural(len(shown), 'output')}"
    return picture(canvas, title, _summary(best), body)


def _summary(best: Sequence[Point]) -> str:
    stair = "; ".join(f"{p.name}, {size(p.size)}, KL {scientific(p.kl)}" for p in best)
    return (
        "Both axes are logarithmic; lower and further left is better. "
        f"Nothing smaller drifts less than these: {stair}. The table of outputs has all numbers."
    )


def _grid(frame: _Frame) -> Iterable[Markup]:
    room, font = frame.room, frame.font
    for value, words in frame.y.decades(max(3, int((room.bottom - room.top) / font / 2.4))):
        y = frame.y.at(value)
        yield line(room.left, y, room.right, y, "grid")
        yield text(room.left - 6, y + font * 0.35, at_floor(value, words), "tick", "end")
    ticks = frame.x.sizes(max(3, int((room.right - room.left) / font / 5)))
    unit, scale = size_unit(ticks or [frame.x.low])
    for value in ticks:
        x = frame.x.at(value)
        yield line(x, room.top, x, room.bottom, "grid")
        yield text(x, room.bottom + font * 1.4, f"{value / scale:g} {unit}", "tick", "middle")
    yield line(room.left, room.bottom, room.right, room.bottom, "base")
    yield text(room.left, room.top - font * 0.5, "mean KL, nats", "axis")
    yield text(room.right, room.bottom + font * 2.9, "size", "axis", "end")


def _corners(best: Sequence[Point], frame: _Frame) -> list[Spot]:
    """The stair's corners, from above the smallest to the right of the largest."""
    x, y = frame.x.at(best[0].size), frame.room.top
    corners = [(x, y)]
    for point in best:
        x = frame.x.at(point.size)
        corners += [(x, y), (x, y := frame.y.at(point.kl))]
    return [*corners, (frame.room.right, y)]


def _stair(corners: Sequence[Spot], room: Box) -> Iterable[Markup]:
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners)
    yield Markup('<path class="beyond" d="{}V{:.1f}H{:.1f}V{:.1f}z"/>').format(path, room.bottom, room.left, room.top)
    yield Markup('<path class="stair" d="{}"/>').format(path)


def _noise(floors: Sequence[tuple[float, str]], frame: _Frame) -> tuple[list[Line], list[tuple[Markup, Box]]]:
    """A line across for each floor, and the runtimes' names over it with the room they take: of near ones together."""
    lines: list[Line] = []
    named: list[tuple[float, list[str]]] = []
    for kl, name in floors:
        y = frame.y.at(kl)
        lines.append(((frame.room.left, y), (frame.room.right, y)))
        if named and named[-1][0] - y < frame.font * 1.3:
            named[-1] = y, [*named[-1][1], name]
        else:
            named.append((y, [name]))
    return lines, [_over(y, f"noise: {', '.join(names)}", frame) for y, names in named]


def _over(y: float, words: str, frame: _Frame) -> tuple[Markup, Box]:
    """Words over a line, at its left end, cut to the picture, and the room that they take."""
    x = frame.room.left + frame.font * 0.4
    fits = int((frame.room.right - x) / (frame.font * WIDE))
    said = words if len(words) <= fits else f"{words[: fits - 1]}…"
    box = Box(x, y - 4 - frame.font, x + LETTER * frame.font * len(said), y)
    return text(x, y - 4, said, "noisy"), box


def _drawn(point: Point, spot: Spot, axis: LogAxis, best: bool) -> Markup:
    """The mark with its interval, a ring when it failed, and what a pointer on it tells."""
    x, y = spot
    parts = [line(x, axis.at(point.ends[0]), x, axis.at(point.ends[1]), f"whisker {point.family.css}")]
    parts.append(point.family.mark(x, y, point.hollow))
    if point.failed:
        parts.append(Markup('<circle class="ring" cx="{:.1f}" cy="{:.1f}" r="{}"/>').format(x, y, POINT + 1))
    said = f"{point.label}: {size(point.size)}, KL {scientific(point.kl, 3)}"
    said += " · on the frontier" * best + " · failed" * point.failed
    return Markup('<g class="tip"><title>{}</title>{}</g>').format(said, Markup("").join(parts))


def legend(report: Report) -> list[tuple[Markup, str]]:
    """A mark and a name for each family that is drawn, then what hollow and a ring mean where they occur."""
    shown = points(report)
    entries = {p.family.name: p.family for p in shown}
    found = [(_swatch(f.mark(9, 9)), name) for name, f in entries.items()]
    hollow = next((p.family for p in shown if p.hollow), None)
    if hollow is not None:
        found.append((_swatch(hollow.mark(9, 9, hollow=True)), "the same files on another runtime"))
    if any(p.failed for p in shown):
        found.append((_swatch(Markup('<circle class="ring" cx="9" cy="9" r="7"/>')), "did not pass"))
    return found


def marks(report: Report) -> list[Markup]:
    """The mark of each output, for its row of the table."""
    hollow, known = on_second_runtime(report["outputs"]), families(report)
    return [_swatch(known[o["format"]].mark(9, 9, h)) for o, h in zip(report["outputs"], hollow, strict=True)]


def _swatch(body: Markup) -> Markup:
    return Markup('<svg class="mark" viewBox="0 0 18 18" aria-hidden="true">{}</svg>').format(body)
