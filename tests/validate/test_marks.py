"""How formats are told apart in a report's pictures: as the report says, and never by a list of ours."""

from __future__ import annotations

import re
from typing import Any

import pytest

from convert import registry
from tests.validate.sample_report import sample_report
from validate.report import to_html, to_markdown
from validate.report.html import axes
from validate.report.marks import SHAPES, FormatLook, Mark, format_entries, looks
from validate.report.schema import Report


@pytest.fixture(scope="module")
def sample() -> Report:
    return sample_report()


def without_formats(report: Report) -> Report:
    old: Any = {name: part for name, part in report.items() if name != "formats"}
    return old


def test_a_format_looks_as_the_report_says(sample: Report) -> None:
    mark = Mark("flag", "#123456", "#abcdef")
    entries = format_entries({"gguf": FormatLook("Giant GGUF", mark, "Files are *large*.")})
    report: Any = {**sample, "formats": entries}
    assert looks(report)["gguf"] == FormatLook("Giant GGUF", mark, "Files are *large*.")
    page = to_html(report)
    assert ":root{--f0:#123456;" in page
    assert page.count("--f0:#abcdef;") == 2, "where a dark page is asked for, and where the reader's system is dark"
    assert "Giant GGUF" in page
    assert r"Files are \*large\*." in to_markdown(report)


def test_a_report_from_before_is_drawn_with_marks_of_its_own(sample: Report) -> None:
    report = without_formats(sample)
    found = looks(report)
    assert list(found) == ["gguf", "onnx", "onnx-genai", "tensorrt", "gptq", "awq"]
    assert [look.title for look in found.values()] == list(found)
    assert len({(look.mark.shape, look.mark.colour) for look in found.values()}) == len(found)
    assert "An engine" not in to_markdown(report)
    assert "<svg" in to_html(report)


def test_a_format_that_the_report_says_nothing_of_gets_a_mark_that_nobody_has(sample: Report) -> None:
    report: Any = {**sample, "outputs": [{**sample["outputs"][0], "format": "punch\u202ecards"}]}
    (name, look) = list(looks(report).items())[-1]
    assert name == "punch\u202ecards"
    assert look.title == "punch⟨U+202E⟩cards"
    assert look.mark.shape not in {entry["mark"]["shape"] for entry in sample["formats"].values()}


@pytest.mark.parametrize(("shape", "colour", "dark"), [("star", "#123456", ""), ("up", "red;}*{display:none", "")])
def test_a_mark_that_cannot_be_drawn_is_replaced(sample: Report, shape: str, colour: str, dark: str) -> None:
    report: Any = {**sample, "formats": format_entries({"gguf": FormatLook("GGUF", Mark(shape, colour, dark))})}
    look = looks(report)["gguf"]
    assert look.title == "GGUF"
    assert look.mark.shape in SHAPES
    assert re.fullmatch("#[0-9a-f]{6}", look.mark.colour)
    assert "display:none}" not in str(axes.colours(report))


def test_a_dark_page_gets_a_lighter_colour_where_none_is_named(sample: Report) -> None:
    for dark in ("", "url(x)"):
        report: Any = {**sample, "formats": format_entries({"gguf": FormatLook("GGUF", Mark("up", "#204060", dark))})}
        assert looks(report)["gguf"].mark == Mark("up", "#204060", "#8496a8")


def test_every_shape_can_be_drawn_and_every_format_that_is_validated_has_one() -> None:
    assert set(SHAPES) == set(axes._SHAPES)
    shapes = [kind.mark.shape for _, kind in registry.kinds().values()]
    assert len(set(shapes)) == len(shapes)
    assert set(shapes) <= set(SHAPES)
