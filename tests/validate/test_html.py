"""report.html in a real browser: what it shows is what report.json says, for everybody, whatever strangers wrote."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.validate.sample_report import sample_report
from tests.validate.sample_variants import hostile, small
from validate.report import columns, words
from validate.report.html import to_html
from validate.report.outputs import short_names
from validate.report.schema import Report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: `apt-get install chromium`, or `make test` as root"
)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


Opener = Callable[..., Any]


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Opener]:
    """A function that opens a report; what the page said and asked for is in its `.said` and `.asked`."""
    contexts = []

    def open_page(report: Report, width: int = 1280, scheme: str = "light", scripts: bool = True) -> Any:
        file = tmp_path / "report.html"
        file.write_text(to_html(report), encoding="utf-8")
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=scripts
        )
        contexts.append(context)
        page = context.new_page()
        page.said, page.asked = [], []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("dialog", lambda dialog: (page.said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def report() -> Report:
    return sample_report()


# ---- in the browser


@needs_browser
def test_nothing_is_said_on_the_console_and_nothing_is_fetched(show: Opener, report: Report) -> None:
    page = show(report)
    page.locator("#theme").click()
    page.locator("#table thead button").first.click()
    page.wait_for_timeout(100)
    assert page.said == []
    assert [url for url in page.asked if not url.startswith("data:")] == [page.url]


@needs_browser
def test_every_number_of_the_table_is_that_of_report_json(show: Opener, report: Report) -> None:
    page = show(report)
    heads = page.eval_on_selector_all("#table th[data-metric]", "all => all.map(e => ({...e.dataset}))")
    scales = {head["metric"]: float(head["scale"]) for head in heads}
    cells = page.eval_on_selector_all(
        "#table td[data-metric]",
        "all => all.map(e => ({...e.dataset, text: e.firstChild.textContent, row: e.parentNode.dataset.output}))",
    )
    assert len(scales) == len(heads) == 10
    assert len(cells) == len(report["outputs"]) * len(scales)
    for cell in cells:
        wanted = columns.lookup(report["outputs"][int(cell["row"])], cell["metric"])
        if wanted is None:
            assert (cell["text"], cell.get("value")) == (words.NOTHING, None)
            continue
        assert float(cell["value"]) == wanted
        assert is_rounding(cell["text"], wanted / scales[cell["metric"]]), cell


def is_rounding(text: str, value: float) -> bool:
    """Whether the text is the value to as many digits as the text has."""
    digits, _, exponent = text.replace("\u202f", "").partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))
    return abs(float(digits) * 10.0 ** int(exponent or 0) - value) <= unit * 0.5000001


@pytest.mark.parametrize(
    ("text", "value", "right"),
    [("1.2e-3", 0.00124, True), ("1.2e-3", 0.00126, False), ("13\u202f117", 13117.4, True), ("0.96", 0.9, False)],
)
def test_the_check_of_roundings_sees_what_is_none(text: str, value: float, right: bool) -> None:
    assert is_rounding(text, value) is right


def shown(page: Any, metric: str) -> list[float | None]:
    values = page.eval_on_selector_all(f'#table td[data-metric="{metric}"]', "all => all.map(e => e.dataset.value)")
    return [None if value is None else float(value) for value in values]


@needs_browser
@pytest.mark.parametrize("key", ["", "Enter", "Space"])
def test_the_table_sorts_up_down_and_back_by_pointer_and_key(show: Opener, report: Report, key: str) -> None:
    page = show(report)
    metric = "metrics.kl_mean"
    head = page.locator(f'#table th[data-metric="{metric}"]')
    before = shown(page, metric)
    known = sorted(value for value in before if value is not None)
    for state, wanted in (
        ("ascending", [*known, None]),
        ("descending", [*reversed(known), None]),
        ("none", before),
    ):
        if key:
            head.locator("button").focus()
            page.keyboard.press(key)
        else:
            head.locator("button").click()
        assert head.get_attribute("aria-sort") == state
        assert shown(page, metric) == wanted
    assert page.locator("#table th[aria-sort]:not([aria-sort=none])").count() == 0


@needs_browser
def test_the_table_sorts_by_name_with_numbers_in_their_order(show: Opener, report: Report) -> None:
    page = show(report)
    page.get_by_role("button", name="Output", exact=True).click()
    names = page.eval_on_selector_all("#table tbody th", "all => all.map(e => e.dataset.value)")
    assert sorted(names) == sorted(o["label"] for o in report["outputs"])
    assert names.index("fara-nano-Q2_K.gguf") < names.index("fara-nano-Q8_0.gguf") < names.index("onnx/fp32")


@needs_browser
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(show: Opener, width: int, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = show(small(), width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    grave = [v for v in found if v["impact"] in ("serious", "critical")]
    assert [(v["id"], [n["html"][:160] for n in v["nodes"][:3]]) for v in grave] == []


@needs_browser
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_is_never_wider_than_the_screen(show: Opener, report: Report, width: int) -> None:
    page = show(report, width)
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    long = sample_report()
    long["outputs"] = [{**o, "label": f"{'x' * 300}{i}"} for i, o in enumerate(long["outputs"][:5])]
    assert len(set(short_names(long))) == 5
    for strange in (long, hostile(small())):
        page = show(strange, width)
        page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@needs_browser
def test_what_strangers_wrote_is_shown_and_not_run(show: Opener) -> None:
    page = show(hostile(small()))
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    page.locator(".tip").first.hover()
    page.wait_for_timeout(100)
    assert page.evaluate("window.hit") is None
    assert page.said == []
    assert [url for url in page.asked if not url.startswith("data:")] == [page.url]
    assert "<script>window.hit=1</script>" in page.locator("#table").inner_text()


@needs_browser
def test_it_reads_without_its_script(show: Opener, report: Report) -> None:
    page = show(report, scripts=False)
    text = page.locator("main").inner_text()
    assert "1.2e-3" in text
    assert not page.locator("#theme").is_visible()
    page.locator("details.worst summary").first.click()
    assert page.locator("details.worst ol").first.is_visible()


@needs_browser
def test_the_button_turns_light_to_dark_and_back(show: Opener, report: Report) -> None:
    page = show(report)
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.locator("#theme").click()
    dark = page.evaluate(colour)
    page.locator("#theme").click()
    assert dark != light == page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(colour) == light, "the button decides"


@needs_browser
def test_paper_has_all_that_was_folded(show: Opener, report: Report) -> None:
    page = show(report)
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert page.locator("details.worst ol").last.is_visible()


@needs_browser
def test_marks_tell_about_themselves_under_a_pointer(show: Opener, report: Report) -> None:
    page = show(report)
    mark = page.locator("svg.wide .tip").first
    mark.scroll_into_view_if_needed()
    mark.hover()
    assert "KL" in page.locator("#tip").inner_text()
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()
