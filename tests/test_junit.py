"""JUnit's XML: what readers of it take, a failure exactly where the command ends with 3, and no earlier run's file."""

from __future__ import annotations

import copy
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from convert.cli import main
from tests import tiny
from tests.validate.sample_report import FAILED, sample_report
from validate.report.changes import compare
from validate.report.junit import Case, Suite, broken, to_xml
from validate.report.junit_cases import changes_suite, report_suite

LABEL = "fara-nano-Q4_K_M.gguf"
HOSTILE = "x\x1b[31m<script>&\"']]>\n\x00\ud800\ufffe"

# What both schemas allow (Ant's JUnit.xsd of Windy Road, Jenkins' junit-10.xsd): attributes, each of which the former
# wants, and children in their order, `*` where there may be several.
SCHEMA: dict[str, tuple[set[str], str]] = {
    "testsuites": (set(), r"(testsuite )*"),
    "testsuite": (
        {"id", "package", "name", "timestamp", "hostname", "tests", "failures", "errors", "skipped", "time"},
        r"properties (testcase )*system-out system-err ",
    ),
    "properties": (set(), r"(property )*"),
    "property": ({"name", "value"}, ""),
    "testcase": ({"name", "classname", "time"}, r"(skipped |failure |error )?"),
    "skipped": ({"message"}, ""),
    "failure": ({"message", "type"}, ""),
    "error": ({"message", "type"}, ""),
    "system-out": (set(), ""),
    "system-err": (set(), ""),
}
NUMBER = re.compile(r"\d+")


def parsed(text: str) -> ElementTree.Element:
    """The document, checked: its shape, its counts, and that no character of it is one that XML does not have."""
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>')
    assert all(c in "\n\t" or c.isprintable() for c in text)
    root = ElementTree.fromstring(text.encode())
    for element in root.iter():
        attributes, children = SCHEMA[element.tag]
        assert set(element.attrib) == attributes, element.tag
        assert re.fullmatch(children, "".join(f"{child.tag} " for child in element)), element.tag
    for suite in root:
        for word, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.attrib[word]) == sum(1 for _ in suite.iter(tag))
        datetime.strptime(suite.attrib["timestamp"], "%Y-%m-%dT%H:%M:%S")
        names = [(case.attrib["classname"], case.attrib["name"]) for case in suite.iter("testcase")]
        assert len(set(names)) == len(names), "a case is known by its class and name"
        assert all(name.strip() == name and name for pair in names for name in pair)
    return root


def of(suite: Suite, label: str) -> dict[str, Case]:
    return {case.name: case for case in suite.cases if case.group == label}


@pytest.fixture
def sample() -> Any:
    return copy.deepcopy(sample_report())


def row(report: Any, label: str = LABEL) -> Any:
    return next(output for output in report["outputs"] if output["label"] == label)


# ---- of a report


def test_a_report_is_a_suite_with_a_case_for_each_gate_of_each_output(sample: Any) -> None:
    suite = report_suite(sample)
    root = parsed(to_xml(suite))
    output = row(sample)
    assert {"verdict", *output["limits"]} <= of(suite, LABEL).keys()
    assert {case.outcome for case in of(suite, LABEL).values()} == {"passed"}
    (element,) = root
    assert element.attrib["name"] == "convert demo"
    properties = {p.attrib["name"]: p.attrib["value"] for p in root.iter("property")}
    assert float(properties[f"{LABEL}/kl_mean"]) == output["metrics"]["kl_mean"]
    assert properties["text/prose"].startswith("2560 tokens, sha256 ")


def test_failures_are_those_of_the_report_and_say_what_it_says(sample: Any) -> None:
    suite = report_suite(sample)
    assert {case.group for case in suite.cases if case.outcome == "failure"} == set(FAILED)
    failed = row(sample, "fara-nano-Q2_K.gguf")
    found = of(suite, "fara-nano-Q2_K.gguf")
    assert failed["reason"] in found["verdict"].message
    assert found["kl_mean"].message == "fara-nano-Q2_K.gguf: kl_mean 0.0262, limit <= 0.01 (recipe)"
    assert found["kl_mean"].details.startswith("95 % interval ")


def test_what_was_not_run_is_skipped_where_it_is_no_reason_to_fail(sample: Any) -> None:
    output = row(sample)
    kept = {"metrics": {}, "status": "not_run", "reason": "no device", "contract": {}}
    output |= {**kept, "neutral": True}
    assert {case.outcome for case in of(report_suite(sample), LABEL).values()} == {"skipped"}
    output["neutral"] = False  # a runtime that is not installed: the run ends with 3
    found = of(report_suite(sample), LABEL)
    assert found.pop("verdict").outcome == "failure"
    assert {case.outcome for case in found.values()} == {"skipped"}


def test_what_is_not_a_number_and_what_was_not_measured(sample: Any) -> None:
    output = row(sample)
    output["metrics"] |= {"kl_mean": None}
    del output["metrics"]["top1"]
    output |= {"status": "failed", "reason": "kl_mean is not a finite number"}
    found = of(report_suite(sample), LABEL)
    assert (found["kl_mean"].outcome, found["top1"].outcome) == ("failure", "skipped")
    assert "is not a finite number" in found["kl_mean"].message


def test_a_check_that_nobody_is_held_to_passes_and_is_told(sample: Any) -> None:
    check = {"title": "a title", "total": 5, "equal": 3, "metric": None, "note": "a note", "differences": []}
    row(sample)["contract"]["told"] = check
    suite = report_suite(sample)
    assert of(suite, LABEL)["told"].outcome == "passed"
    assert {f"{LABEL}: a title: a note", f"{LABEL}: a title: 3 of 5 agree"} <= set(suite.notes)
    assert "3 of 5 agree" in (parsed(to_xml(suite)).findtext("testsuite/system-out") or "")


def test_a_missed_check_names_its_differences(sample: Any) -> None:
    output = row(sample)
    name, check = next((n, c) for n, c in output["contract"].items() if c["metric"] in output["limits"])
    differs = {"what": "eos", "reference": "1", "candidate": "2"}
    check |= {"equal": check["total"] - 1, "differences": [differs]}
    output["metrics"][check["metric"]] = 0.5
    case = of(report_suite(sample), LABEL)[check["metric"]]
    assert case.details.endswith("eos: the source has 1, the output 2")
    assert name not in of(report_suite(sample), LABEL), "once, under its metric"


def test_strangers_words_are_words(sample: Any) -> None:
    output = row(sample)
    output |= {"label": HOSTILE, "status": "failed", "reason": HOSTILE, "runtime": HOSTILE}
    output["limits"]["kl_mean"]["limit"] = 0.0
    sample["recipe"] = HOSTILE
    sample["texts"][0]["name"] = HOSTILE
    text = to_xml(report_suite(sample))
    parsed(text)
    assert "<script>" not in text


def test_labels_with_dots_are_one_class(sample: Any) -> None:
    classes = {case.attrib["classname"] for case in parsed(to_xml(report_suite(sample))).iter("testcase")}
    assert "convert demo.fara-nano-Q4_K_M_gguf" in classes
    assert {name.count(".") for name in classes} == {1}


def test_a_run_that_came_to_nothing_is_errors() -> None:
    root = parsed(to_xml(broken("convert run", ["recipe.yaml:3: <wrong>\x07", "another"])))
    assert [error.attrib["message"] for error in root.iter("error")] == ["recipe.yaml:3: <wrong>␇", "another"]


# ---- of what changed


def test_what_got_worse_fails_and_what_is_gone_is_skipped(sample: Any) -> None:
    after = copy.deepcopy(sample)
    row(after).update(status="failed", reason="because")
    row(after)["metrics"]["click_rate"] = 0.1
    row(after)["intervals"]["click_rate"] = (0.05, 0.15)
    after["outputs"].remove(row(after, "awq/Int4"))
    suite = changes_suite(compare(sample, after))
    parsed(to_xml(suite))
    failures = {case.name: case.message for case in suite.cases if case.outcome == "failure"}
    assert failures.keys() == {"verdict", "click_rate"}
    assert failures["verdict"] == f"{LABEL}: passed before, failed after: because"
    assert failures["click_rate"].startswith(f"{LABEL}: click_rate 0.95 before, 0.1 after, difference -")
    assert of(suite, "awq/Int4")["verdict"].outcome == "skipped"
    assert {case.outcome for case in changes_suite(compare(after, sample)).cases} == {"passed", "skipped"}


def test_nothing_in_both_is_an_error(sample: Any) -> None:
    sample["outputs"] = []
    (case,) = changes_suite(compare(sample, sample)).cases
    assert case.outcome == "error"


# ---- the commands


def convert(*words: str) -> Result:
    return CliRunner().invoke(main, words, catch_exceptions=False)


@pytest.fixture
def reports(sample: Any, tmp_path: Path) -> tuple[str, str]:
    """Paths of a report and of one that is worse."""
    worse = copy.deepcopy(sample)
    row(worse).update(status="failed", reason="because")
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, report in zip(paths, (sample, worse), strict=True):
        path.write_text(json.dumps(report))
    return str(paths[0]), str(paths[1])


def test_compare_writes_it_whatever_the_verdict(reports: tuple[str, str], tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "junit.xml"
    a, b = reports
    for sides, code, failures in (((a, b), 3, "1"), ((b, a), 0, "0"), ((a, a), 0, "0")):
        assert convert("compare", *sides, "--junit", str(file)).exit_code == code
        assert parsed(file.read_text())[0].attrib["failures"] == failures
        assert list(file.parent.iterdir()) == [file]


def test_an_earlier_runs_file_never_stays(reports: tuple[str, str], tmp_path: Path) -> None:
    file = tmp_path / "junit.xml"
    assert convert("compare", reports[0], reports[0], "--junit", str(file)).exit_code == 0
    assert convert("compare", reports[0], str(tmp_path / "none.json"), "--junit", str(file)).exit_code == 2
    (error,) = parsed(file.read_text()).iter("error")
    assert "cannot be read" in error.attrib["message"]


def test_a_file_that_cannot_be_written_is_said_first_and_nobodys_file_is_overwritten(
    reports: tuple[str, str], tmp_path: Path
) -> None:
    a, b = reports
    mine = tmp_path / "recipe.yaml"
    mine.write_text("name: mine\n")
    for where, said in (
        (str(tmp_path), "is a folder, wanted the name of a file"),
        (str(mine), "is there already and is no XML"),
        (f"{mine}/junit.xml", "cannot be written: "),
        ("/dev/null", "is no plain file"),
    ):
        result = convert("compare", a, b, "--junit", where)
        assert (result.exit_code, result.stdout) == (2, "")
        assert said in result.stderr
        assert result.stderr.count("\n") == 1
    assert mine.read_text() == "name: mine\n"


def recipe(folder: Path, more: str = "") -> str:
    tiny.tiny_llama(folder / "model")
    path = folder / "recipe.yaml"
    path.write_text(f"name: r\nmodel: {{path: model}}\nstages:\n  gguf: {{use: gguf, types: [F32, Q2_K]}}\n{more}")
    return str(path)


def test_run_and_validate_write_what_the_report_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    limits = "{F32: {kl_mean: 1.0e-6}, Q2_K: {kl_mean: 1.0e-9}}"
    words = recipe(tmp_path, f"validate: {{tokens: 96, window: 48, threads: 1, limits: {limits}}}\n")
    file = tmp_path / "junit.xml"
    assert convert("run", words, "--junit", str(file), "-q").exit_code == 3
    root = parsed(file.read_text())
    assert {case.attrib["classname"] for case in root.iter("testcase") if case.find("failure") is not None} == {
        "convert r.model-Q2_K_gguf"
    }
    again = convert("validate", words, "--junit", str(file), "-q")
    assert again.exit_code == 3
    assert ElementTree.tostring(parsed(file.read_text())[0][0]) == ElementTree.tostring(root[0][0])
    broken_recipe = convert("run", "none.yaml", "--junit", str(file))
    assert broken_recipe.exit_code == 2
    assert parsed(file.read_text())[0].attrib["name"] == "convert run"


def test_a_recipe_without_verdicts_is_told(tmp_path: Path) -> None:
    result = convert("run", recipe(tmp_path), "--out", str(tmp_path / "out"), "--junit", str(tmp_path / "j.xml"))
    assert result.exit_code == 2
    assert "--junit, and nothing is validated, wanted verdicts to write; add `validate: {}`" in result.stderr
    assert not (tmp_path / "out").exists()
