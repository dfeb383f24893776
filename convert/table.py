"""Tables of plain text: columns as wide as they need to be, and the one of a report's outputs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from convert.json_types import JsonObject

Row = JsonObject  # an entry of the report's outputs; one of an earlier version lacks some words

NOTHING = "-"
STYLES = {"passed": "\x1b[32m", "failed": "\x1b[1;31m", "not run": "\x1b[33m"}
RESET = "\x1b[0m"


def size(count: float) -> str:
    """Bytes as the hub shows them: decimal units, three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}" if count < 1000 else f"{count:.0f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def aligned(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: Sequence[str] = ()) -> Iterator[str]:
    """The table's lines; never wrapped, so that it can be copied and searched."""
    widths = [max(len(str(row[i])) for row in (heads, *rows)) for i in range(len(heads))]

    def line(cells: tuple[str, ...]) -> str:
        parts = [c.rjust(w) if h in right else c.ljust(w) for c, w, h in zip(cells, widths, heads, strict=True)]
        return "  ".join(parts).rstrip()

    yield line(heads)
    yield line(tuple("-" * w for w in widths))
    yield from map(line, rows)


# ---- the outputs of a report


def report_lines(report: JsonObject, *, colour: bool) -> Iterator[str]:
    """The table of outputs, the count of verdicts, and why an output did not pass."""
    outputs = report["outputs"]
    columns = [(head, cell) for head, cell in COLUMNS if any(cell(o) != NOTHING for o in outputs)]
    heads = ("output", *(head for head, _ in columns), "verdict")
    rows = [(label(o), *(cell(o) for _, cell in columns), verdict(o)) for o in outputs]
    first, second, *lines = aligned(heads, rows, right=heads[1:-1])
    yield from (first, second)
    for line, output in zip(lines, outputs, strict=True):
        word = verdict(output)
        yield line.removesuffix(word) + styled(word, word, colour)
    count = Counter(map(verdict, outputs))
    yield ""
    yield ", ".join(styled(f"{count[word]} {word}", word, colour) for word in STYLES if count[word])
    for output in outputs:
        if (word := verdict(output)) != "passed":
            yield f"{styled(word, word, colour)}: {label(output)}: {plain(output['reason'])}"


def label(output: Row) -> str:
    """What the report calls a row; a report of an earlier version has only its file's name."""
    return plain(str(output.get("label") or Path(output["path"]).name))


def verdict(output: Row) -> str:
    """passed, failed or not run."""
    return str(output["status"]).replace("_", " ")


def styled(text: str, word: str, colour: bool) -> str:
    """The text in the colour of a verdict."""
    return f"{STYLES[word]}{text}{RESET}" if colour and word in STYLES else text


def plain(text: str) -> str:
    """Strangers' text without characters that could move a terminal's cursor."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def metric(name: str, write: Callable[[float], str]) -> Callable[[Row], str]:
    """A cell of one metric."""

    def cell(output: Row) -> str:
        value = output["metrics"].get(name)
        return NOTHING if value is None else write(value)

    return cell


def interval_of(name: str) -> Callable[[Row], str]:
    """A cell of a metric and its confidence interval, with one exponent: `1.20 (0.98–1.47) e-3`."""

    def cell(output: Row) -> str:
        value, ends = output["metrics"].get(name), output.get("intervals", {}).get(name)
        if value is None:
            return NOTHING
        text = scientific(value)
        if ends is None or value == 0:
            return text
        digits, _, exponent = text.partition("e")
        low, high = (end / 10.0 ** int(exponent) for end in ends)
        return f"{digits} ({low:.2f}–{high:.2f}) e{int(exponent):<3}"

    return cell


def percent(digits: int) -> Callable[[float], str]:
    """A share with so many digits, or more where 100 % would be said of what is not all."""

    def write(value: float) -> str:
        shown = next((n for n in range(digits, 6) if value >= 1 or float(f"{value:.{n + 2}f}") < 1), 6)
        return f"{value:.{shown}%}"

    return write


def scientific(value: float) -> str:
    """`1.20e-3`: an exponent without the zero that nobody reads."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits, _, exponent = f"{value:.2e}".partition("e")
    return f"{digits}e{int(exponent)}"


def _bytes(output: Row) -> str:
    return size(output["size_bytes"])


def _bits(output: Row) -> str:
    bits = output.get("bits_per_weight")
    return NOTHING if bits is None else f"{bits:.2f}"


def _speed(output: Row) -> str:
    speed = (output.get("speed") or {}).get("decode_tokens_per_second")
    return NOTHING if speed is None else f"{speed:.3g}" if speed < 100 else f"{speed:.0f}"


COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("size", _bytes),
    ("bits/w", _bits),
    ("mean KL", interval_of("kl_mean")),
    ("top-1", metric("top1", percent(2))),
    ("ppl ratio", metric("ppl_ratio", "{:.4f}".format)),
    ("clicks", metric("click_rate", percent(1))),
    ("tools", metric("tool_calls_valid", percent(1))),
    ("tok/s", _speed),
)
