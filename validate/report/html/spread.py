"""The picture of how drift is spread over positions: a row for each output, all on one axis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from validate.report.html.axes import (
    Canvas,
    Family,
    LogAxis,
    at_floor,
    families,
    kl_axis,
    line,
    picture,
    text,
)
from validate.report.outputs import short_names
from validate.report.schema import QuantileEntry, Report
from validate.report.words import plural, scientific

_LINES = ((0.05, 0.95, "thin"), (0.25, 0.75, "box"))
_TICKS = (0.99, 0.999)
_TOLD = (("median", 0.5), ("99 %", 0.99), ("99.9 %", 0.999), ("worst", 1.0))
_LETTER = 0.58  # of the font's size, a letter's width


@dataclass(frozen=True)
class Spread:
    """An output's quantiles of KL, by share."""

    name: str
    family: Family
    quantiles: Sequence[QuantileEntry]
    mean: float

    def at(self, share: float) -> float:
        """KL at the first quantile that has at least this share of the positions below it."""
        return next((q["kl"] for q in self.quantiles if q["share"] >= share - 1e-12), self.quantiles[-1]["kl"])


def spreads(report: Report) -> list[Markup]:
    """The picture for a wide page and the one for a phone; the style sheet shows one of them."""
    rows = sorted(_rows(report), key=lambda row: row.mean)
    if not rows:
        return []
    return [
        _spread(rows, Canvas("spread-wide", 1080, 0, 13), True),
        _spread(rows, Canvas("spread-narrow", 360, 0, 12), False),
    ]


def _rows(report: Report) -> list[Spread]:
    known = families(report)
    return [
        Spread(
            name,
            known[o["format"]],
            sorted(o["quantiles"], key=lambda q: q["share"]),
            o["metrics"].get("kl_mean") or 0.0,
        )
        for o, name in zip(report["outputs"], short_names(report), strict=True)
        if o["quantiles"]
    ]


def _spread(rows: Sequence[Spread], canvas: Canvas, beside: bool) -> Markup:
    """Those that drift least first. `beside`: names stand left of the rows; else above, where a page is narrow."""
    font, width = canvas.font, canvas.width
    step = font * (1.9 if beside else 3.0)
    left = font * (1.5 + _LETTER * max(len(row.name) for row in rows)) if beside else 8.0
    top = font * 2.2
    bottom = top + step * len(rows)
    axis = kl_axis([q["kl"] for row in rows for q in row.quantiles], left + 4, width - font)
    body = [*_scale(axis, top, bottom, font)]
    for i, row in enumerate(rows):
        y = top + step * (i + (0.5 if beside else 0.72))
        at = (left - 8, y + font * 0.35) if beside else (8.0, y - font * 0.8)
        body += [text(*at, row.name, "name", "end" if beside else ""), _strip(row, y, axis, font * 0.42)]
    title = f"How KL is spread over positions, for {plural(len(rows), 'output')}"
    said = "; ".join(f"{r.name}: median {scientific(r.at(0.5))}, 99 % below {scientific(r.at(0.99))}" for r in rows)
    sized = Canvas(canvas.name, width, round(bottom + font * 2), font)
    return picture(sized, title, f"On a logarithmic axis. {said}.", body)


def _scale(axis: LogAxis, top: float, bottom: float, font: float) -> Iterable[Markup]:
    for value, words in axis.decades(max(3, int((axis.end - axis.start) / font / 5))):
        x, said = axis.at(value), at_floor(value, words)
        yield line(x, top - 4, x, bottom, "grid")
        yield text(x, top - 10, said, "tick", "middle")
        yield text(x, bottom + font * 1.3, said, "tick", "middle")


def _strip(row: Spread, y: float, axis: LogAxis, half: float) -> Markup:
    """Half of all positions in the box, 90 % on the line, ticks at 99 % and 99.9 %, the worst as a dot."""
    css, middle = row.family.css, axis.at(row.at(0.5))
    parts = [line(axis.at(row.at(low)), y, axis.at(row.at(high)), y, f"{kind} {css}") for low, high, kind in _LINES]
    parts.append(line(middle, y - half * 1.1, middle, y + half * 1.1, "median"))
    pins = [axis.at(row.at(share)) for share in _TICKS]
    parts += [line(x, y - half * 0.7, x, y + half * 0.7, f"pin {css}") for x in pins]
    worst, mean = axis.at(row.quantiles[-1]["kl"]), axis.at(row.mean)
    parts.append(Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="2.6"/>').format(css, worst, y))
    parts.append(Markup('<path class="mean" d="M{:.1f} {:.1f}l3.6 3.6l-3.6 3.6l-3.6-3.6z"/>').format(mean, y - 3.6))
    said = ", ".join(f"{words} {scientific(row.at(share))}" for words, share in _TOLD)
    return Markup('<g class="tip"><title>{}: mean {}, {}</title>{}</g>').format(
        row.name, scientific(row.mean), said, Markup("").join(parts)
    )
