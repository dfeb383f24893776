"""report.html in a real browser: what it shows is what report.json says, for everybody, whatever strangers wrote."""

from __future__ import annotations

import copy
import math
import random
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.validate.sample_report import sample_report
from validate.report import axes, columns, labels, sections, words
from validate.report.html import to_html
from validate.report.schema import Report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: `apt-get install chromium`, or `make test` as root"
)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
HOSTILE = (
    "\"'><script>window.hit=1</script><img src=x onerror=window.hit=1></title></style></svg></script><!--"
    "{{ 7*7 }}{% raw %}&lt;\u2028\u202e\x00\x1b\ud800]]>javascript:hit"
)


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


def small() -> Report:
    """One output of each family and each verdict: what costs seconds on all 26."""
    made = sample_report()
    first = {(o["format"], o["status"]): o for o in reversed(made["outputs"])}
    made["outputs"] = [{**o, "worst": o["worst"][:2]} for o in made["outputs"] if o in first.values()]
    return made


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
    assert len(set(axes.short_names(long))) == 5
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


# ---- without one


def hostile(made: Any) -> Any:
    """Every text of the report, but the words of the schema, with markup and what turns text around in front."""
    kept = {"status", "kind", "better", "format", "metric"}

    def spoil(value: Any, name: str = "") -> Any:
        if isinstance(value, str):
            return value if name in kept else HOSTILE + value
        if isinstance(value, list):
            return [spoil(inner, name) for inner in value]
        if isinstance(value, dict):
            spoiled = name in ("contract", "versions")
            return {(HOSTILE + key if spoiled else key): spoil(inner, key) for key, inner in value.items()}
        return value

    return spoil(made)


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple[str, ...]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append((tag, tuple(name for name, _ in attrs)))


def test_markup_in_texts_makes_no_element_and_no_attribute() -> None:
    page = to_html(hostile(small()))
    assert Tags(page).seen.count(("script", ())) == 1
    assert not [tag for tag in Tags(page).seen if tag[0] == "img" or any(name.startswith("on") for name in tag[1])]
    assert not [c for c in page if c in "\u2028\u202e\x00\x1b"]
    page.encode("utf-8")


def test_it_is_one_file_that_asks_for_nothing(report: Report) -> None:
    page = to_html(report)
    assert "default-src 'none'" in page
    assert "http://" not in page
    assert "https://" not in page
    assert to_html(report) == page


def test_thirty_outputs_stay_small() -> None:
    made = sample_report()
    made["outputs"] += copy.deepcopy(made["outputs"][:4])
    assert len(made["outputs"]) == 30
    assert len(to_html(made).encode()) < 500_000


def one(**changes: Any) -> Report:
    made = sample_report()
    made["outputs"] = [{**made["outputs"][0], **changes}]  # type: ignore[typeddict-item]
    return made


def zero_kl() -> Report:
    made = one()
    made["outputs"][0]["metrics"]["kl_mean"] = 0.0
    made["outputs"][0]["intervals"]["kl_mean"] = (0.0, 0.0)
    made["outputs"][0]["quantiles"] = [{"share": 0.5, "kl": 0.0}, {"share": 1.0, "kl": 1e-13}]
    return made


def nulls() -> Report:
    made = one()
    output = made["outputs"][0]
    output["metrics"] = dict.fromkeys(output["metrics"])
    output["intervals"] = {"kl_mean": (math.nan, math.inf), "top1": (0.5, math.inf)}
    output["metrics"]["top1"] = 0.9
    for part in output["slices"]:
        part.update(kl_mean=None, kl_low=None, kl_high=None, top1=None, ppl_ratio=None)
    for image in output["vision"]["images"]:
        image.update(cosine_min=None, cosine_mean=None, max_error=None, kl=None)
    output["tensors"] = [{**t, "error": None} for t in output["tensors"]]
    output["status"], output["reason"] = "failed", "kl_mean is not a finite number"
    return made


def empty() -> Report:
    made = sample_report()
    made["outputs"] = []
    return made


def not_run() -> Report:
    made = sample_report()
    made["outputs"] = [o for o in made["outputs"] if o["neutral"]]
    return made


def sixty() -> Report:
    made = sample_report()
    twice = [*made["outputs"], *copy.deepcopy(made["outputs"]), *copy.deepcopy(made["outputs"][:8])]
    made["outputs"] = [{**o, "label": f"{i}-{o['label']}"} for i, o in enumerate(twice)]
    return made


@pytest.mark.parametrize("make", [one, zero_kl, nulls, empty, not_run, sixty], ids=lambda f: f.__name__)
def test_whatever_is_missing_there_is_a_page(make: Callable[[], Report]) -> None:
    page = to_html(make())
    drawing = page.partition("<main>")[2]
    for word in ("nan", "inf", "None", "Undefined"):
        assert f">{word}<" not in drawing
        assert f"{word} " not in "".join(part.partition('"')[0] for part in drawing.split(' d="')[1:])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (one, "The output passed"),
        (empty, "Nothing was validated"),
        (not_run, "Built and not run"),
        (nulls, "The output did not pass"),
        (sample_report, "3 of 26 outputs did not pass"),
    ],
)
def test_the_verdict_is_a_sentence(make: Callable[[], Report], said: str) -> None:
    assert f"<h1>{said}</h1>" in to_html(make())


def test_kl_of_nothing_is_drawn_at_a_floor_that_is_named() -> None:
    page = to_html(zero_kl())
    assert "≤ 10⁻⁹" in page
    assert 'data-value="0.0" data-metric="metrics.kl_mean">0<' in page


def test_what_failed_is_told_with_how_surely_and_what_to_do(report: Report) -> None:
    page = to_html(report)
    assert "not surely: 63 % of resampled texts miss it" in page
    assert "surely: 100 % of resampled texts miss it" in page
    assert "chats reach the model in another form" in page
    assert "fara-nano-i1-Q3_K_M.gguf</a>: <code>kl_mean</code>" in page  # passed, by less than the noise


def test_a_failure_that_no_limit_tells_is_told() -> None:
    made = one(status="failed", reason="kl_mean 0.2, limit <= 0.13; vision: the runtime died; it said nothing")
    made["outputs"][0]["metrics"]["kl_mean"] = 0.2
    page = to_html(made)
    assert '<p class="why">vision: the runtime died; it said nothing</p>' in page
    assert page.count("<code>kl_mean</code> <b>0.2</b>") == 1


def test_columns_that_nobody_has_are_left_out(report: Report) -> None:
    blind = copy.deepcopy(report)
    for output in blind["outputs"]:
        output["speed"] = output["tool_calls"] = None
        output["metrics"] = {n: v for n, v in output["metrics"].items() if "click" not in n and "tool" not in n}
    shown_paths = [column.path for column in columns.columns(blind)]
    assert shown_paths == ["size_bytes", "bits_per_weight", "metrics.kl_mean", "metrics.top1", "metrics.ppl_ratio"]


def test_names_beside_points_never_touch() -> None:
    chance = random.Random(7)
    points = [(chance.uniform(40, 1000), chance.gauss(260, 40)) for _ in range(60)]
    names = [f"onnx/int{i}@openvino"[: 4 + i % 15] for i in range(60)]
    room = labels.Box(0, 0, 1080, 560)
    placed = labels.place(labels.Scene(room, points, [], 13.0), names, [5, 3])
    boxes = [label.box for label in placed if label is not None]
    assert len(boxes) > 40
    assert placed[5] is not None
    for i, box in enumerate(boxes):
        assert box.within(room)
        assert not any(box.meets(other) for other in boxes[:i])


@pytest.mark.parametrize(
    ("line", "through"),
    [
        (((0, 5), (20, 5)), True),
        (((0, 0), (20, 20)), False),  # touches a corner
        (((5, 0), (5, 20)), False),
        (((0, 12), (20, 12)), False),
        (((0, 5), (9, 5)), False),
        (((12, 5), (13, 5)), True),
        (((8, 0), (30, 22)), True),
    ],
)
def test_a_line_is_seen_to_go_through_a_box(line: labels.Line, through: bool) -> None:
    assert labels._through(line, labels.Box(10, 0, 20, 10)) is through


def test_tensors_are_laid_out_by_layer_and_role() -> None:
    def tensor(name: str, error: float | None, type_: str = "Q4_K") -> Any:
        return {"name": name, "type": type_, "values": 256, "error": error}

    found = sections.tensor_map(
        [
            tensor("blk.0.ffn_down.weight", 0.07),
            tensor("blk.10.ffn_down.weight", 0.0734),
            tensor("blk.9.ffn_down.weight", 0.018, "Q6_K"),
            tensor("blk.10.attn_norm.weight", 0.0),
            tensor("token_embd.weight", None),
            tensor("blk.x.odd", 0.5),
            tensor("output.weight", 1e-6),
        ]
    )
    assert found is not None
    assert found.layers == [0, 9, 10]
    (row,) = found.rows
    assert (row.role, row.type) == ("ffn_down", "Q4_K")
    assert [(cell and cell.text, other) for cell, other in row.cells] == [("7.0", False), ("1.8", True), ("7.3", False)]
    assert found.exact == ["attn_norm"]
    assert [(name, cell.text) for name, cell in found.others] == [
        ("token_embd", "–"),
        ("blk.x.odd", "50"),
        ("output", "<.01"),
    ]


def test_a_part_that_is_the_whole_is_no_part() -> None:
    made = one()
    made["outputs"][0]["slices"] = [
        s for s in made["outputs"][0]["slices"] if s["kind"] != "set" or s["name"] == "code"
    ]
    table = sections.slice_table(made)
    assert table is not None
    assert [title for title, _ in table.groups] == ["kind of token", "place in its window"]
    assert "code" not in table.names


@pytest.mark.parametrize(
    ("got", "wanted"),
    [
        (words.scientific(0.0012028), "1.2e-3"),
        (words.scientific(0.0), "0"),
        (words.scientific(1.64), "1.6"),
        (words.scientific(24.9), "25"),
        (words.scientific_range(0.00081, 0.00165), "0.8–1.6e-3"),
        (words.scientific_range(0.0, 1e-13), "0–1.0e-13"),
        (words.percent(0.99999), "99.999"),
        (words.chance(0.99999), ">99.9"),
        (words.chance(1e-6), "<0.1"),
        (words.chance(0.5), "50.0"),
        (words.percent(1.0), "100.0"),
        (words.token(" the "), "␣the␣"),
        (words.token("  "), "␣␣"),
        (words.token(""), "(nothing)"),
        (words.visible("a\nb\x00\u202e\ud800"), "a⏎b␀⟨U+202E⟩⟨U+D800⟩"),
        (words.size(2894400), "2.89 MB"),
        (words.listed(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_numbers_and_texts_as_words(got: str, wanted: str) -> None:
    assert got == wanted
