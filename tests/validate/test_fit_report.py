"""Types chosen for a size, as the report shows them."""

from __future__ import annotations

import re

from tests.validate.sample_report import sample_report
from validate.report import fit_words, words
from validate.report.html import to_html
from validate.report.markdown import to_markdown
from validate.report.schema import Report
from validate.report.schema_fit import FitCandidate, FitEntry, FitMatrix


def _candidate(why: str, predicted: float, kl: float) -> FitCandidate:
    return {"why": why, "predicted": predicted, "measured": {"kl": kl, "low": kl / 2, "high": kl * 2, "tokens": 4096}}


def _entry(by: str = "gradients") -> FitEntry:
    matrices: list[FitMatrix] = [
        {"name": f"blk.{n}.<b>", "type": "Q4_K", "values": 512, "bytes": 288, "cost": 2.0**-n, "share": 2.0**-n / 2}
        for n in range(20)
    ]
    candidates = [_candidate("chosen for the size", 1e-3, 3e-3), _candidate("as in Q4_K_M", 2e-3, 5e-3)]
    return {
        "asked": "like: Q4_K_M",
        "budget": 1000,
        "bytes": 999,
        "by": by,
        "why": "chosen for the size",
        "predicted": 1e-3,
        "measured": candidates[0]["measured"],
        "candidates": candidates,
        "matrices": matrices,
    }


def report_with(*entries: FitEntry) -> Report:
    made = sample_report()
    for output, entry in zip(made["outputs"], entries, strict=False):
        output["fit"] = entry
    return made


def test_a_report_without_such_files_says_nothing_of_them() -> None:
    assert "Types chosen for a size" not in to_html(sample_report())
    assert "Types chosen for a size" not in to_markdown(sample_report())


def test_candidates_and_the_dearest_tensors_first() -> None:
    (found,) = fit_words.fitted(report_with(_entry()))
    assert [row.chosen for row in found.candidates] == [True, False]
    assert found.dearest[0].name == "blk.0.<b>"
    assert len(found.dearest) + len(found.others) == 20
    assert found.facts == f"999 bytes; {words.count(1000)} were asked for; by gradients"


def test_the_pages_show_tables_and_the_picture_with_strangers_words_escaped() -> None:
    page = to_html(report_with(_entry(), _entry()))
    assert page.count("Predicted against measured KL of 4 candidates") == 2  # a wide picture and a narrow one
    assert "<code>blk.3.&lt;b&gt;</code>" in page
    assert "<b></code>" not in page
    assert len(re.findall(r"<small>[^<]+</small></td><td>kept</td>", page)) == 2
    text = to_markdown(report_with(_entry()))
    assert "## Types chosen for a size" in text
    assert "chosen for the size" in text


def test_what_is_guessed_is_in_no_picture_and_is_said() -> None:
    report = report_with(_entry("nothing: every error counts alike"))
    assert fit_words.predictions(report) == []
    assert fit_words.GUESSED in to_html(report)
    assert "Predicted against measured" not in to_html(report)
