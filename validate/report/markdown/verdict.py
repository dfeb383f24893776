"""The top of report.md: the verdict, how surely, what to do, and what stands out."""

from __future__ import annotations

from collections.abc import Iterable

from validate.report import verdicts
from validate.report.markdown.text import code, codes, text
from validate.report.schema import Output, Report
from validate.vision import NO_VISION

WORDS = {"passed": "passed", "failed": "**FAILED**", "not_run": "**NOT RUN**"}


def verdict(report: Report) -> Iterable[str]:
    """The heading and everything above the tables."""
    outputs = report["outputs"]
    sentence = verdicts.sentence(outputs)
    yield f"# {text(report['recipe'])}: {sentence[:1].lower()}{sentence[1:]}"
    yield ""
    lines = [*_troubles(report), *_to_do(report), *_close_calls(report), *_facts(report), *_not_checked(outputs)]
    yield from lines
    if lines:
        yield ""


def _troubles(report: Report) -> Iterable[str]:
    for trouble in verdicts.troubles(report):
        said = [*map(_missed, trouble.gates), *filter(None, [trouble.reason])]
        yield f"- {WORDS[trouble.status]} {code(trouble.label)}: {text('; '.join(said))}"


def _missed(gate: verdicts.Gate) -> str:
    certainty = f" ({gate.certainty})" if gate.certainty else ""
    return f"{gate.metric} {gate.value}, limit {gate.better} {gate.limit}{certainty}"


def _to_do(report: Report) -> Iterable[str]:
    for names, said in verdicts.to_do(report):
        yield f"- What to do ({codes(names)}): {text(said)}"  # names of strangers' tensors may be in it


def _close_calls(report: Report) -> Iterable[str]:
    calls = list(dict.fromkeys(label for _, label, _ in verdicts.close_calls(report)))
    if calls:
        yield f"- Passed, but not surely: {codes(calls)}; Limits, below, has how often other texts or clicks miss them"


def _facts(report: Report) -> Iterable[str]:
    for fact in verdicts.facts(report):
        yield f"- {text(fact.title)}: {text(fact.value)}" + (f" ({text(fact.detail)})" if fact.detail else "")


def _not_checked(outputs: Iterable[Output]) -> Iterable[str]:
    """What was not checked is said before the tables, or it would be taken for checked."""
    reasons: dict[str, list[str]] = {}
    for output in outputs:
        reason = output["vision"]["reason"]
        if reason and reason != NO_VISION:
            reasons.setdefault(reason, []).append(output["label"])
    for reason, labels in reasons.items():
        yield f"- Images: **not checked** for {codes(labels)}: {text(reason)}"
