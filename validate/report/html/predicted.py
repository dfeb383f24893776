"""The picture of what was predicted of candidate mixes against what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from validate.report import fit_words
from validate.report.html.axes import Canvas, LogAxis, at_floor, kl_axis, line, picture, text
from validate.report.html.labels import Box
from validate.report.schema import Report
from validate.report.words import plural, scientific

Point = tuple[str, float, float, bool]
SIZES = Canvas("predicted-wide", 1080, 480, 13), Canvas("predicted-narrow", 360, 360, 12)


def predicted(report: Report) -> list[Markup]:
    """The picture for a wide page and the one for a phone; none where nothing was both predicted and measured."""
    shown = fit_words.predictions(report)
    return [_picture(shown, canvas) for canvas in SIZES] if shown else []


def _picture(shown: Sequence[Point], canvas: Canvas) -> Markup:
    font = canvas.font
    room = Box(font * 4.2, font * 1.6, canvas.width - font * 1.6, canvas.height - font * 3.6)
    every = [value for _, predicted, measured, _ in shown for value in (predicted, measured)]
    x, y = kl_axis(every, room.left, room.right), kl_axis(every, room.bottom, room.top)
    body = [*_grid(room, x, y, font), *(_dot(point, x, y) for point in shown)]
    words = "; ".join(f"{what}: {scientific(p)} predicted, {scientific(m)} measured" for what, p, m, _ in shown)
    title = f"Predicted against measured KL of {plural(len(shown), 'candidate')}"
    return picture(canvas, title, f"Both axes are logarithmic; on the line both are alike. {words}.", body)


def _grid(room: Box, x: LogAxis, y: LogAxis, font: float) -> Iterator[Markup]:
    for value, words in y.decades(6):
        yield line(room.left, y.at(value), room.right, y.at(value), "grid")
        yield text(room.left - 6, y.at(value) + font * 0.35, at_floor(value, words), "tick", "end")
    for value, words in x.decades(6):
        yield line(x.at(value), room.top, x.at(value), room.bottom, "grid")
        yield text(x.at(value), room.bottom + font * 1.4, at_floor(value, words), "tick", "middle")
    yield line(room.left, room.bottom, room.right, room.top, "noise")
    yield line(room.left, room.bottom, room.right, room.bottom, "base")
    yield text(room.left, room.top - font * 0.5, "measured KL, nats", "axis")
    yield text(room.right, room.bottom + font * 2.9, "predicted KL", "axis", "end")


def _dot(point: Point, x: LogAxis, y: LogAxis) -> Markup:
    """A disc, or a ring for a mix that was not chosen, and what a pointer on it tells."""
    what, predicted, measured, chosen = point
    said = f"{what}: {scientific(predicted, 3)} predicted, {scientific(measured, 3)} measured"
    return Markup('<g class="tip"><title>{}</title><circle class="{}" cx="{:.1f}" cy="{:.1f}" r="5"/></g>').format(
        said, "m f0" if chosen else "m f0 hollow", x.at(predicted), y.at(measured)
    )
