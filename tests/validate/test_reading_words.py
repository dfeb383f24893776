"""What pages say of the text: its hashes, and how far outputs read with `tokens: auto`."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.validate.sample_report import sample_report
from validate.report import to_html, to_markdown
from validate.report.reading_words import reading
from validate.report.schema import Report
from validate.report.words import count

STEPS = f"4 outputs after {count(2048)}, 1 output after {count(4096)}"


@pytest.fixture
def report() -> Report:
    found: Any = copy.deepcopy(sample_report())
    for place, output in enumerate(found["outputs"][:6]):
        output["reading"] = {"tokens": 2048 * (1 + place // 4), "windows": 4, "decided": True, "reason": "decided"}
    last = found["outputs"][5]["reading"]
    last |= {"tokens": 65536, "decided": False, "reason": "not decided after 65,536 tokens, the most that is read: <b>"}
    return found  # type: ignore[no-any-return]


def test_how_far_outputs_read_is_counted_and_the_undecided_are_named(report: Report) -> None:
    label = report["outputs"][5]["label"]
    assert list(reading(report)) == [
        f"Of it each output read as many tokens as decide all its limits: {STEPS}",
        f"{label}: not decided after 65,536 tokens, the most that is read: <b>",
    ]
    assert list(reading(sample_report())) == []


def test_both_pages_say_it_and_name_the_token_ids(report: Report) -> None:
    for page in (to_markdown(report), to_html(report)):
        assert " ".join(STEPS.split()) in " ".join(page.split())  # whatever kind of space joins digits
        assert "not decided after 65,536 tokens" in page
        assert " <b>" not in page.partition("not decided")[2][:80]
        for text in report["texts"]:
            assert text["tokens_sha256"][:12] in page
    assert report["texts"][0]["source"] in to_html(report)


def test_a_report_without_hashes_of_token_ids_is_drawn() -> None:
    old: Any = copy.deepcopy(sample_report())
    for text in old["texts"]:
        del text["source"], text["tokens_sha256"]
    assert "of its token ids" not in to_markdown(old)
    assert old["texts"][0]["sha256"] in to_html(old)
