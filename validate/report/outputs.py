"""What every form of a report asks of outputs: what to call them where room is scarce, and a metric's interval."""

from __future__ import annotations

from validate.report.schema import Output, Report
from validate.report.words import visible

_NAME_LETTERS = 32


def short_names(report: Report) -> list[str]:
    """What outputs are called where room is scarce: their labels without what all have in common, no two alike."""
    outputs, model = report["outputs"], report["reference"]["model"]
    names = []
    for output in outputs:
        name = output["label"].removesuffix(".gguf").removeprefix(f"{model}-")
        names.append(_elided(visible(name or output["label"])))
    return [f"{name} ({i + 1})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _elided(name: str) -> str:
    """A long name without its middle: what tells outputs apart is at its ends."""
    return name if len(name) <= _NAME_LETTERS else f"{name[: _NAME_LETTERS // 2]}…{name[-_NAME_LETTERS // 2 :]}"


def ends(output: Output, metric: str) -> tuple[float, float] | None:
    """Both ends of a metric's interval; None where there is none, or one that has no end."""
    low, high = output["intervals"].get(metric, (None, None))
    return None if low is None or high is None else (low, high)
