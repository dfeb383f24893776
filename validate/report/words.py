"""Numbers as a page shows them, and strangers' text made visible: nothing here knows HTML."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable

NOTHING = "–"

Formatter = Callable[[float], str]

_PICTURES = {chr(i): chr(0x2400 + i) for i in range(0x20)} | {"\x7f": "␡", "\n": "⏎", "\t": "⇥"}
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # categories that draw nothing, or turn what stands around them


def visible(text: str) -> str:
    """The text with every character that would not be seen, or would turn its surroundings, written out."""
    return "".join(_PICTURES.get(c) or (f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c) in _UNSEEN else c) for c in text)


def token(text: str) -> str:
    """A token's text: spaces at its ends are seen, and so is that there is none."""
    core = text.strip(" ")
    if not core:
        return "␣" * len(text) or "(nothing)"
    lead = len(text) - len(text.lstrip(" "))
    tail = len(text) - len(text.rstrip(" "))
    return "␣" * lead + visible(core) + "␣" * tail


def scientific(value: float, digits: int = 2) -> str:
    """`1.2e-3`: a column of KL spans ten decades, in which zeros before the digits are counted, not read."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if exponent == "+00":
        return mantissa
    return f"{mantissa}e{int(exponent)}" if value < 1 else f"{float(f'{value:.{digits}g}'):g}"


def plain(value: float) -> str:
    """One KL by itself: `0.19`, and `1.9e-4` where zeros would have to be counted."""
    return f"{value:.2g}" if 1e-3 <= value < 10 else scientific(value)


def scientific_range(low: float, high: float) -> str:
    """`0.8–1.6e-3`: both ends with the exponent of the upper one, where that is read at a glance."""
    if high <= 0 or low <= 0 or high / low > 100:
        return f"{scientific(low)}–{scientific(high)}"
    exponent = min(0, math.floor(math.log10(high)))
    scale = 10.0**exponent
    return f"{low / scale:.1f}–{high / scale:.1f}" + (f"e{exponent}" if exponent else "")


def percent(value: float, digits: int = 1) -> str:
    """`96.3`, with more digits where fewer would say 100 of what is not all."""
    while digits < 6 and value < 1 and float(f"{value * 100:.{digits}f}") == 100:
        digits += 1
    return f"{value * 100:.{digits}f}"


def chance(probability: float) -> str:
    """A token's probability in per cent: one digit behind the point is all that is read of it."""
    if 0 < probability < 0.0005:
        return "<0.1"
    return ">99.9" if 0.9995 <= probability < 1 else f"{probability * 100:.1f}"


def fixed(digits: int) -> Formatter:
    """A function that writes so many digits behind the point."""
    return lambda value: f"{value:.{digits}f}"


def count(value: float) -> str:
    """`10 240`: digits in groups of three, joined so that a line does not break within."""
    return f"{value:,.0f}".replace(",", "\u202f")


def rate(value: float) -> str:
    """Tokens a second: three digits, or all that stand before the point."""
    return count(value) if value >= 100 else f"{value:.{1 if value >= 10 else 2}f}"


_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))


def size_unit(sizes: Iterable[float]) -> tuple[str, float]:
    """The unit for a column of sizes, so that its numbers can be compared down the column."""
    middle = sorted(sizes) or [0.0]
    return next(((name, scale) for name, scale in _UNITS if middle[len(middle) // 2] >= scale), _UNITS[-1])


def size(value: float) -> str:
    """One size by itself: `2.89 MB`."""
    name, scale = size_unit([value])
    return f"{value:.0f} B" if name == "B" else f"{value / scale:.2f} {name}"


def plural(number: int, word: str) -> str:
    """`1 output`, `26 outputs`."""
    return f"{count(number)} {word}{'' if number == 1 else 's'}"


def listed(names: Iterable[str]) -> str:
    """`a, b and c`."""
    *first, last = list(names) or [""]
    return f"{', '.join(first)} and {last}" if first else last
