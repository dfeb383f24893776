"""summary.html in a real browser: sorted, filtered, linked, for everybody, whatever strangers wrote."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convert.batch.changes import Change
from convert.batch.page import to_html
from convert.batch.results import ModelResult, Output
from tests.validate.test_html import CHROMIUM, FLAGS, needs_browser

Opener = Callable[..., Any]


def output(label: str, kind: str, size: int, kl: float | None, verdict: str = "passed") -> Output:
    ends = (None, None) if kl is None else (kl * 0.9, kl * 1.1)
    reason = "kl_mean 0.1, limit <= 0.01" if verdict == "failed" else ""
    top1 = None if kl is None else 1 - kl
    return Output(label, "gguf", f"gguf/{label}", kind, size, verdict, reason, "llama.cpp", kl, *ends, top1, 1.0)


def model(name: str, status: str, *outputs: Output, **more: Any) -> ModelResult:
    given = {"ran": ("gguf",), "seconds": 12.5, "report": f"{name}/report.html" if outputs else "", **more}
    return ModelResult(name, f"/models/{name}", "r", "l.txt:1", status, outputs, **given)  # type: ignore[arg-type]


MODELS = [
    model("Alpha-1B", "passed", output("a-Q8_0.gguf", "Q8_0", 900, 2e-5), output("a-Q4_0.gguf", "Q4_0", 500, 3e-3)),
    model(
        "Beta 7B",
        "missed",
        output("b-Q8_0.gguf", "Q8_0", 9000, 1e-5),
        output("b-Q4_0.gguf", "Q4_0", 5000, 0.1, "failed"),
    ),
    model("Gamma", "failed", problems=("model.safetensors: was cut short", "and more"), attempts=3, failure="broken"),
    model("Delta", "made", output("d-F16.gguf", "F16", 70, None, ""), report="", ran=()),
    ModelResult("", "/x", "", "l.txt:9", "left out", problems=("names no model",)),
    model("Later", "pending", seconds=0.0, ran=()),
]
CHANGES = [Change("Beta 7B", "b-Q4_0.gguf", "passed before, failed now", "worse", "2026-01-01 10:00:00")]
COUNTS = {"passed": 1, "missed": 1, "failed": 1, "made": 1, "left out": 1, "pending": 1}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Opener]:
    contexts = []

    def open_page(
        models: list[ModelResult] = MODELS, width: int = 1280, scheme: str = "light", scripts: bool = True, at: str = ""
    ) -> Any:
        file = tmp_path / "summary.html"
        file.write_text(to_html(models, CHANGES, COUNTS, "2026-01-08 10:00:00"), encoding="utf-8")
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=scripts
        )
        contexts.append(context)
        page = context.new_page()
        page.said, page.asked = [], []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(file.as_uri() + at)
        return page

    yield open_page
    for context in contexts:
        context.close()


def column(page: Any, number: int) -> list[str]:
    code = f"rows => rows.filter(row => !row.hidden).map(row => row.cells[{number}].firstChild.textContent)"
    found: list[str] = page.eval_on_selector_all("#table tbody tr", code)
    return found


@needs_browser
def test_it_says_nothing_on_the_console_and_fetches_nothing(show: Opener) -> None:
    page = show()
    page.locator("#theme").click()
    page.locator("#table thead button").first.click()
    page.locator("#find").fill("alpha")
    assert page.said == []
    assert [url for url in page.asked if not url.startswith("data:")] == [page.url.partition("#")[0]]


@needs_browser
def test_it_sorts_by_size_and_drift_and_back(show: Opener) -> None:
    page = show()
    before = column(page, 3)
    size = page.get_by_role("button", name="Size")
    size.click()
    assert column(page, 3) == ["70 B", "500 B", "900 B", "5 kB", "9 kB", "-", "-", "-"]
    size.click()
    assert column(page, 3) == ["9 kB", "5 kB", "900 B", "500 B", "70 B", "-", "-", "-"]
    size.click()
    assert column(page, 3) == before
    page.get_by_role("button", name="Mean KL").press("Enter")
    assert column(page, 4)[:4] == ["1.00e-5", "2.00e-5", "3.00e-3", "1.00e-1"]
    page.get_by_role("button", name="Verdict").click()
    assert column(page, 2)[0] == "failed"


@needs_browser
def test_it_filters_by_word_verdict_and_type_and_the_address_keeps_that(show: Opener) -> None:
    page = show()
    page.locator("#find").fill("beta q8")
    assert column(page, 1) == ["b-Q8_0.gguf"]
    assert page.locator("#shown").inner_text() == "1 of 8 rows"
    page.locator("#find").fill("")
    page.locator("#verdict").select_option("failed")
    assert len(column(page, 0)) == 2
    page.locator("#type").select_option("Q4_0")
    assert column(page, 1) == ["b-Q4_0.gguf"]
    again = show(at="#" + page.url.partition("#")[2])
    assert column(again, 1) == ["b-Q4_0.gguf"]
    again.get_by_role("button", name="Size").click()
    assert column(again, 1) == ["b-Q4_0.gguf"], "sorting brings nothing back"


@needs_browser
def test_a_models_name_leads_to_its_report(show: Opener) -> None:
    page = show()
    links = page.eval_on_selector_all("#table tbody a", "all => all.map(a => a.getAttribute('href'))")
    assert links == [*["Alpha-1B/report.html"] * 2, *["Beta%207B/report.html"] * 2]
    assert "was cut short" in page.locator(".troubles").inner_text()
    assert "tried 3 times" in page.locator(".troubles").inner_text()
    assert "passed before, failed now" in page.locator(".changes").inner_text()


@needs_browser
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_and_the_page_fits(show: Opener, width: int, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = show(width=width, scheme=scheme)
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    grave = [v for v in found if v["impact"] in ("serious", "critical")]
    assert [(v["id"], [n["html"][:160] for n in v["nodes"][:3]]) for v in grave] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@needs_browser
def test_what_strangers_wrote_is_shown_and_not_run(show: Opener) -> None:
    evil = "<script>window.hit=1</script>\"'><img src=x onerror=window.hit=1>\u202e"
    hostile = [
        replace(
            each,
            model=evil * 9,
            problems=(evil,),
            outputs=tuple(replace(o, label=evil, reason=evil) for o in each.outputs),
        )
        for each in MODELS
    ]
    page = show(hostile, width=360)
    page.locator("#find").fill("script")
    assert page.evaluate("window.hit") is None
    assert page.said == []
    assert "<script>window.hit=1</script>" in page.locator("#table").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@needs_browser
def test_it_reads_without_its_script(show: Opener) -> None:
    page = show(scripts=False)
    assert "1.00e-1" in page.locator("main").inner_text()
    assert not page.locator("#filters").is_visible()


def test_the_page_asks_for_nothing_and_says_all() -> None:
    text = to_html(MODELS, CHANGES, COUNTS, "now")
    assert not re.search(r"(?:src|href)=\"https?:", text)
    assert "Of 6 models 1 failed, 1 missed a limit, 1 left out, 1 not begun, 2 good" in text
    assert "All 2 models are good" in to_html(MODELS[:1], [], {"passed": 2}, "now")
