"""A report, and what changed between two, as the cases of a JUnit suite.

A suite has a failure exactly where the command ends with 3: an output that did not pass, or got worse.
"""

from __future__ import annotations

from collections.abc import Iterator

from validate.metrics import Better, number
from validate.report.changes import Changes, Kind, MetricChange, OutputChange
from validate.report.junit import Case, Suite
from validate.report.schema import CheckEntry, Limit, Output, Report

VERDICT = "verdict"


# ---- a report


def report_suite(report: Report) -> Suite:
    """A case for the verdict on each output, one for each of its limits, and one for each check of its contract."""
    cases = [case for output in report["outputs"] for case in _cases(output)]
    numbers = {
        f"{output['label']}/{name}": str(value)
        for output in report["outputs"]
        for name, value in _numbers(output).items()
    }
    texts = {f"text/{text['name']}": _text_words(text["tokens"], text.get("tokens_sha256")) for text in report["texts"]}
    notes = [note for output in report["outputs"] for note in _notes(output)]
    return Suite(f"convert {report['recipe']}", cases, {**texts, **numbers}, notes)


def _text_words(tokens: int, digest: str | None) -> str:
    return f"{tokens} tokens" + (f", sha256 {digest}" if digest else "")


def _numbers(output: Output) -> dict[str, float]:
    measured = {name: value for name, value in output["metrics"].items() if value is not None}
    bits = {} if output["bits_per_weight"] is None else {"bits_per_weight": output["bits_per_weight"]}
    return {"size_bytes": output["size_bytes"], **bits, **measured}


def _cases(output: Output) -> Iterator[Case]:
    limits = [_limit(output, name, limit) for name, limit in output["limits"].items()]
    yield _verdict(output)
    yield from limits
    named = {entry["metric"] for entry in output["contract"].values()} & output["limits"].keys()
    for name, check in output["contract"].items():
        if check["metric"] not in named:  # else its limit is a case already; nobody is held to this one
            outcome = Case(output["label"], name, "skipped", "nothing to compare") if not check["total"] else None
            yield outcome or Case(output["label"], name)


def _verdict(output: Output) -> Case:
    label, reason = output["label"], output["reason"]
    if output["status"] == "passed":
        return Case(label, VERDICT)
    if output["neutral"]:
        return Case(label, VERDICT, "skipped", reason)
    return Case(label, VERDICT, "failure", f"{label} {output['status'].replace('_', ' ')}: {reason}", type=VERDICT)


def _limit(output: Output, name: str, limit: Limit) -> Case:
    label, value = output["label"], output["metrics"].get(name)
    if name not in output["metrics"]:
        return Case(label, name, "skipped", "not measured" + (f": {output['reason']}" if output["reason"] else ""))
    if value is not None and _kept(value, limit):
        return Case(label, name)
    got = "is not a finite number" if value is None else number(value, limit["limit"])
    said = f"{label}: {name} {got}, limit {limit['better']} {limit['limit']:g} ({limit['source']})"
    differences = (line for check in output["contract"].values() for line in _differences(check, name))
    return Case(label, name, "failure", said, "\n".join([_interval(output, name), *differences]))


def _kept(value: float, limit: Limit) -> bool:
    return value <= limit["limit"] if limit["better"] == Better.LOWER else value >= limit["limit"]


def _interval(output: Output, name: str) -> str:
    if name not in output["intervals"]:
        return f"runtime: {output['runtime']}"
    low, high = output["intervals"][name]
    return f"95 % interval {low:.4g} to {high:.4g}; runtime: {output['runtime']}"


def _differences(check: CheckEntry, metric: str) -> Iterator[str]:
    if check["metric"] == metric:
        for one in check["differences"]:
            yield f"{one['what']}: the source has {one['reference']}, the output {one['candidate']}"


def _notes(output: Output) -> Iterator[str]:
    """What is told of an output and holds it to nothing."""
    for check in output["contract"].values():
        if check["note"]:
            yield f"{output['label']}: {check['title']}: {check['note']}"
        if check["metric"] not in output["limits"] and check["equal"] < check["total"]:
            yield f"{output['label']}: {check['title']}: {check['equal']} of {check['total']} agree"
    if (read := output.get("reading")) and not read["decided"]:
        yield f"{output['label']}: {read['reason']}"


# ---- two reports


def changes_suite(changes: Changes) -> Suite:
    """A case for the verdict on each output that both reports have, and one for each metric that is not as it was."""
    cases = [case for output in changes.outputs for case in _changed(output)]
    if not cases:
        cases.append(Case("reports", "outputs", "error", "nothing to compare: no output is in both", type="change"))
    for word, labels in (("only before", changes.gone), ("only after", changes.new)):
        cases += [Case(label, VERDICT, "skipped", f"{word}: nothing to compare") for label in labels]
    numbers = {
        f"{output.label}/{change.name}": f"{_value(change.before)} -> {_value(change.after)}"
        for output in changes.outputs
        for change in (*output.metrics, *output.speed)
    }
    notes = [f"{what}: {before} -> {after}" for what, before, after in changes.conditions]
    return Suite(f"convert compare {changes.after}", cases, numbers, notes)


def _changed(output: OutputChange) -> Iterator[Case]:
    said = f"{output.label}: {output.before.replace('_', ' ')} before, {output.after.replace('_', ' ')} after"
    if output.verdict is Kind.WORSE:
        yield Case(output.label, VERDICT, "failure", f"{said}: {output.reason}", type="change")
    else:
        yield Case(output.label, VERDICT)
    for change in output.metrics:
        if change.kind is Kind.WORSE:
            yield Case(output.label, change.name, "failure", f"{output.label}: {_worse(change)}", type="change")
        else:
            yield Case(output.label, change.name)


def _worse(change: MetricChange) -> str:
    said = f"{change.name} {_value(change.before)} before, {_value(change.after)} after"
    if change.low is None or change.high is None:
        return said
    return f"{said}, difference {change.low:+.2g} to {change.high:+.2g} (95 %{', paired' if change.paired else ''})"


def _value(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"
