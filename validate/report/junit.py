"""JUnit's XML, which CI systems show as tests: a suite of cases that passed, failed, broke or were skipped.

It keeps to what the two published schemas have in common, so that any reader takes it: Ant's (JUnit.xsd of Windy Road,
which wants every attribute and knows no properties of a case) and Jenkins' (junit-10.xsd of its xUnit plugin).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal
from xml.etree import ElementTree

from validate.report.words import visible

Outcome = Literal["passed", "failure", "error", "skipped"]


@dataclass(frozen=True)
class Case:
    """One thing that was asked of one output. A `message` is one line, `details` may be many."""

    group: str  # what the case is about: an output's label
    name: str  # what was asked, without numbers, so that a CI system knows it again: kl_mean
    outcome: Outcome = "passed"
    message: str = ""
    details: str = ""
    type: str = "limit"  # of a failure: limit, contract, verdict, change


@dataclass(frozen=True)
class Suite:
    """The cases of one report; `numbers` are shown beside them, `notes` are its standard output."""

    name: str
    cases: Sequence[Case]
    numbers: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def count(self, outcome: Outcome) -> int:
        return sum(case.outcome == outcome for case in self.cases)


def broken(name: str, problems: Sequence[str]) -> Suite:
    """A suite for a run that came to no report: each problem an error, so that nobody takes silence for a pass."""
    return Suite(name, [Case(name, f"problem {i}", "error", said, said, "run") for i, said in enumerate(problems, 1)])


def to_xml(suite: Suite, when: datetime | None = None) -> str:
    """The suite as a document; `when` it was measured is now where it is left out."""
    root = ElementTree.Element("testsuites")
    words = {
        "id": "0",
        "package": _token(suite.name),
        "name": _token(suite.name),
        "timestamp": (when or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%S"),
        "hostname": "localhost",  # what the schema wants where the host is nobody's business
        "tests": str(len(suite.cases)),
        "failures": str(suite.count("failure")),
        "errors": str(suite.count("error")),
        "skipped": str(suite.count("skipped")),
        "time": "0",
    }
    element = ElementTree.SubElement(root, "testsuite", words)
    properties = ElementTree.SubElement(element, "properties")
    for name, value in suite.numbers.items():
        ElementTree.SubElement(properties, "property", {"name": _token(name), "value": visible(value)})
    for case in suite.cases:
        _add(element, suite, case)
    ElementTree.SubElement(element, "system-out").text = _lines(suite.notes)
    ElementTree.SubElement(element, "system-err").text = ""
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=False).join((_DECLARATION, "\n"))


_DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'


def _add(element: ElementTree.Element, suite: Suite, case: Case) -> None:
    words = {"name": _token(case.name), "classname": f"{_package(suite.name)}.{_package(case.group)}", "time": "0"}
    found = ElementTree.SubElement(element, "testcase", words)
    if case.outcome == "skipped":
        ElementTree.SubElement(found, "skipped", {"message": visible(case.message)})
    elif case.outcome != "passed":
        said = {"type": case.type, "message": visible(case.message)}
        ElementTree.SubElement(found, case.outcome, said).text = _lines([case.message, *case.details.splitlines()])


def _lines(lines: Sequence[str]) -> str:
    return "\n".join(map(visible, dict.fromkeys(lines)))


def _token(name: str) -> str:
    """A name as the schemas have it: never empty, in one line, single spaces."""
    return visible(" ".join(name.split())) or "unnamed"


def _package(name: str) -> str:
    """A part of a class's name, which readers cut at its dots."""
    return _token(name).replace(".", "_")
