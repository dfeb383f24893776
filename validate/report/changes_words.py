"""What changed between two reports, as text for a terminal, Markdown for a pull request, JSON for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from validate.report.changes import Changes, Kind, MetricChange, OutputChange

HEADS = ("output", "what", "before", "after", "difference (95 %)", "")
SPEED_HEADS = ("output", "what", "before", "after")

Rows = list[tuple[str, ...]]


def to_text(changes: Changes) -> str:
    """Aligned columns under a sentence, the gravest first."""
    lines = [sentence(changes)]
    for heads, rows in ((HEADS, judged_rows(changes)), (SPEED_HEADS, speed_rows(changes))):
        if rows:
            title = ["speed, which is shown and not judged:"] if heads is SPEED_HEADS else []
            lines += ["", *title, *_aligned(heads, rows)]
    notes = list(remarks(changes))
    return "\n".join([*lines, *([""] if notes else []), *notes])


def to_markdown(changes: Changes) -> str:
    """A sentence, a table, and the rest folded away."""
    blocks = [f"**{_escaped(sentence(changes))}**"]
    if rows := judged_rows(changes):
        blocks.append(_table(HEADS, rows))
    if rows := speed_rows(changes):
        blocks.append(_folded("Speed, which is shown and not judged", _table(SPEED_HEADS, rows)))
    if notes := list(remarks(changes)):
        blocks.append(_folded("Conditions", "\n".join(f"- {_escaped(note)}" for note in notes)))
    return "\n\n".join(blocks)


def to_json(changes: Changes) -> str:
    """Everything, differences within noise too."""
    return json.dumps(asdict(changes) | {"worse": changes.worse}, indent=2, ensure_ascii=False)


def sentence(changes: Changes) -> str:
    """What it comes to."""
    if not changes.outputs:
        gone_new = f"{len(changes.gone)} gone, {len(changes.new)} new"
        return f"Nothing to compare: no output is in both ({gone_new})"
    worse = sum(output.worse for output in changes.outputs)
    better = sum(output.better for output in changes.outputs)
    said = [f"{worse} worse", f"{better} better", f"{len(changes.outputs) - worse - better} the same"]
    said += [f"{len(names)} {word}" for word, names in (("new", changes.new), ("gone", changes.gone)) if names]
    many = len(changes.outputs)
    verdict = "Nothing got worse" if not changes.worse else "Something got worse"
    return f"{verdict}: of {many} output{'s' * (many != 1)} in both, {', '.join(said)}"


def judged_rows(changes: Changes) -> Rows:
    """What is worse, then what is better, then verdicts of which nothing is known."""
    rows = [row for output in changes.outputs for row in _judged(output)]
    order = [Kind.WORSE, Kind.BETTER, Kind.UNJUDGED]
    return sorted(rows, key=lambda row: order.index(Kind(row[-1])))


def _judged(output: OutputChange) -> Iterator[tuple[str, ...]]:
    label = visible(output.label)
    if output.verdict is not Kind.NOISE:
        sides = (side.replace("_", " ") for side in (output.before, output.after))
        yield label, "verdict", *sides, visible(output.reason), output.verdict.value
    for change in output.metrics:
        if change.kind in (Kind.WORSE, Kind.BETTER):
            sides = (_number(value) for value in (change.before, change.after))
            yield label, change.name, *sides, _difference(change), change.kind.value


def speed_rows(changes: Changes) -> Rows:
    """Outputs that became faster, slower, smaller or larger in memory."""
    return [
        (visible(output.label), change.name.replace("_", " "), _number(change.before), _number(change.after))
        for output in changes.outputs
        for change in output.speed
    ]


def remarks(changes: Changes) -> Iterator[str]:
    """What else is to be known."""
    for word, names in (("new", changes.new), ("gone", changes.gone)):
        if names:
            yield f"{word}: {', '.join(map(visible, names))}"
    if changed := [output for output in changes.outputs if output.files]:
        yield f"other files: {', '.join(visible(output.label) for output in changed)}"
    for what, before, after in changes.conditions:
        yield f"{visible(what)}: {_short(before)} -> {_short(after)}"
    kinds = [change.kind for output in changes.outputs for change in output.metrics]
    for kind, said in ((Kind.NOISE, "within noise"), (Kind.UNJUDGED, "of metrics whose noise is not known")):
        if many := kinds.count(kind):
            yield f"{many} difference{'s' * (many != 1)} {said}; --json lists them"


def visible(text: str) -> str:
    """Strangers' text on one line, without characters that could move a terminal's cursor."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _difference(change: MetricChange) -> str:
    if change.before is None or change.after is None:
        return ""
    text = f"{change.after - change.before:+.2g}"
    if change.low is None or change.high is None:
        return text
    return f"{text} ({change.low:+.2g} to {change.high:+.2g}{', paired' if change.paired else ''})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _short(text: str) -> str:
    """Hashes by their beginning."""
    whole = len(text) == 64 and all(c in "0123456789abcdef" for c in text)
    return text[:12] if whole else visible(text)


def _aligned(heads: Sequence[str], rows: Rows) -> Iterator[str]:
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    for row in (heads, tuple("-" * width for width in widths), *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _table(heads: Sequence[str], rows: Rows) -> str:
    lines = [heads, ["---"] * len(heads), *([_escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>"


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    for character in "\\`*_[]|#":
        text = text.replace(character, f"\\{character}")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
