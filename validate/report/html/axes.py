"""Scales and marks that the charts share. SVG is made with Markup.format, which escapes what it is given."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from validate.report.marks import looks
from validate.report.schema import Output, Report

FLOOR = 1e-9  # KL below it is drawn at it: far under what float32 logits of another summation order give

# Shape and colour say the same, so that neither is needed alone. Paths are drawn around 0, 0.
_SHAPES: Mapping[str, str] = {
    "circle": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0",
    "square": "M-4.5-4.5h9v9h-9z",
    "diamond": "M0-6.2L6.2 0L0 6.2L-6.2 0z",
    "up": "M0-6L5.8 4.6H-5.8z",
    "down": "M0 6L5.8-4.6H-5.8z",
    "hexagon": "M-6 0L-3-5.2H3L6 0L3 5.2H-3z",
    "cross": "M-5.5-2h3.5v-3.5h4v3.5h3.5v4h-3.5v3.5h-4v-3.5h-3.5z",
    "flag": "M-5-5.5L5.5 0L-5 5.5z",
    "bow": "M-5.8-5.2L0-1.2L5.8-5.2V5.2L0 1.2L-5.8 5.2z",
    "chevron": "M-6-5.2L0-0.8L6-5.2V0.8L0 5.2L-6 0.8z",
    "star": "M0-6.6L1.8-1.8L6.6 0L1.8 1.8L0 6.6L-1.8 1.8L-6.6 0L-1.8-1.8z",
}


@dataclass(frozen=True)
class Family:
    """How the outputs of a format are drawn."""

    css: str
    shape: str
    name: str

    def mark(self, x: float, y: float, hollow: bool = False) -> Markup:
        """The format's shape at a place; hollow for a file that an earlier row has on its main runtime."""
        return Markup('<path class="m {}{}" transform="translate({:.1f} {:.1f})" d="{}"/>').format(
            self.css, " hollow" if hollow else "", x, y, _SHAPES[self.shape]
        )


def families(report: Report) -> dict[str, Family]:
    """That of every format of the report, by the format's name."""
    return {
        name: Family(f"f{number}", look.mark.shape, look.title)
        for number, (name, look) in enumerate(looks(report).items())
    }


def colours(report: Report) -> Markup:
    """The style sheet's rules for the families on a light page."""
    found = families(report).values()
    rules = Markup("").join(Markup(".{0}{{fill:var(--{0});stroke:var(--{0})}}").format(f.css) for f in found)
    marks = [look.mark.colour for look in looks(report).values()]
    return Markup(":root{{{}}}\n{}").format(_variables(marks), rules)


def colours_dark(report: Report) -> Markup:
    """What changes of them on a dark page."""
    return _variables([look.mark.colour_dark for look in looks(report).values()])


def _variables(marks: Sequence[str]) -> Markup:
    return Markup("").join(Markup("--f{}:{};").format(number, colour) for number, colour in enumerate(marks))


def on_second_runtime(outputs: Sequence[Output]) -> list[bool]:
    """For each output, whether the same file is an earlier row's too, on another runtime."""
    seen: set[tuple[str, str]] = set()
    found = []
    for output in outputs:
        file = (output["path"], output["sha256"])
        found.append(file in seen)
        seen.add(file)
    return found


@dataclass(frozen=True)
class LogAxis:
    """A logarithmic scale from `low` to `high` onto pixels from `start` to `end`, at which lies what is outside."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (math.log(max(value, self.low)) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return self.start + min(share, 1.0) * (self.end - self.start)

    def decades(self, at_most: int) -> list[tuple[float, str]]:
        """Powers of ten and how they are written, every second or third where there are too many."""
        first, last = round(math.log10(self.low)), round(math.log10(self.high))
        step = max(1, math.ceil((last - first) / at_most))
        return [(10.0**power, ten_to(power)) for power in range(first, last + 1, step)]

    def sizes(self, at_most: int) -> list[float]:
        """1, 2, 5, 10 … within the axis; fewer of each ten where there are too many."""
        for steps in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            ticks = [step * 10.0**power for power in powers for step in steps]
            inside = [tick for tick in ticks if self.low <= tick <= self.high]
            if len(inside) <= at_most:
                return inside
        return inside


def kl_axis(values: Iterable[float], start: float, end: float) -> LogAxis:
    """Whole decades around the values, from FLOOR on; at least two."""
    values = [max(value, FLOOR) for value in values] or [FLOOR]
    low = max(FLOOR, 10.0 ** math.floor(math.log10(min(values)) + 1e-9))
    high = 10.0 ** math.ceil(math.log10(max(values)) - 1e-9)
    return LogAxis(low, max(high, low * 100), start, end)


def ten_to(power: int) -> str:
    """`10⁻³`, in characters: a chart has no superscripts."""
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


@dataclass(frozen=True)
class Canvas:
    """A picture's name, which its ids begin with, its size, and the size of its letters."""

    name: str  # `sizes-wide`: the word behind the dash is its class
    width: int
    height: int
    font: float


def picture(canvas: Canvas, title: str, summary: str, body: Iterable[Markup]) -> Markup:
    """An SVG picture with its title and description for those who do not see it."""
    head = Markup(
        '<svg class="chart {0}" viewBox="0 0 {1} {2}" role="img" aria-labelledby="{3}-t {3}-d">'
        '<title id="{3}-t">{4}</title><desc id="{3}-d">{5}</desc>'
    ).format(canvas.name.partition("-")[2], canvas.width, canvas.height, canvas.name, title, summary)
    return head + Markup("").join(body) + Markup("</svg>")


def text(x: float, y: float, words: str, css: str = "", anchor: str = "") -> Markup:
    """Words in a picture."""
    extra = Markup(' text-anchor="{}"').format(anchor) if anchor else Markup("")
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}"{}>{}</text>').format(x, y, css, extra, words)


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    """A straight line."""
    return Markup('<path class="{}" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>').format(css, x1, y1, x2, y2)


def at_floor(value: float, words: str) -> str:
    """A tick's words, that say when all below it is drawn there too."""
    return f"≤ {words}" if value <= FLOOR else words
