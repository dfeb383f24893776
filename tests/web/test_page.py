"""The page of `convert serve` in Debian's Chromium, as a user would use it, and with wrong input."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from convert.serving.outputs import find
from convert.serving.server import ADDRESS, Site, open_server
from tests.validate.test_html import CHROMIUM, FLAGS, needs_browser
from tests.web.exported import ASKED, PICTURE, TARGET, needs_node, outputs
from validate import transformers_js

__all__ = ["outputs"]
pytestmark = [needs_browser, needs_node]
ADAPTER = "navigator.gpu?.requestAdapter().then(found => found !== null, () => false) ?? false"
SLOW = 120_000  # milliseconds; WASM on a busy machine
Opener = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def show(browser: Any) -> Iterator[Opener]:
    """The page over a folder of outputs, with what it asked elsewhere and what went wrong in it."""
    closing = []

    def open_page(folder: Path, scheme: str = "light") -> Any:
        site = Site({served.name: served for served in find(folder)}, transformers_js.find().modules)
        server = open_server(site, 0)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        context = browser.new_context(viewport={"width": 1100, "height": 900}, color_scheme=scheme)
        closing.extend([context.close, server.shutdown, server.server_close])
        page = context.new_page()
        page.set_default_timeout(SLOW)
        page.wrong, page.elsewhere = [], []
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        home = f"http://{ADDRESS}:{server.port}/"
        page.on(
            "request", lambda asked: asked.url.startswith((home, "blob:", "data:")) or page.elsewhere.append(asked.url)
        )
        page.goto(home)
        page.wait_for_selector("#output option", state="attached")
        return page

    yield open_page
    for close in closing:
        close()


def answered(page: Any) -> str:
    page.click("#run")
    page.wait_for_selector("#speed:not(:empty), #problem:visible")  # no function: the page's policy lets none be made
    assert not page.is_visible("#problem"), page.inner_text("#problem")
    return str(page.inner_text("#answer"))


def picked(page: Any, output: str, dtype: str) -> None:
    page.select_option("#output", output)
    page.select_option("#dtype", dtype)
    page.select_option("#device", "wasm")


def sparse(folder: Path, size: int, pieces: int = 1) -> Path:
    """An output that says it has so many bytes of weights."""
    (folder / "onnx").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "onnx" / "model.onnx").write_bytes(b"")
    for piece in range(pieces):
        with open(folder / "onnx" / f"model.onnx_data{f'_{piece}' if piece else ''}", "wb") as file:
            file.truncate(size // pieces)
    return folder


def test_a_screenshot_is_clicked_where_transformers_clicks(outputs: Path, show: Opener) -> None:
    page = show(outputs)
    picked(page, "fara", "q8")
    page.set_input_files("#file", str(PICTURE))
    page.wait_for_selector("#canvas:visible")
    before = page.evaluate("document.querySelector('#canvas').toDataURL()")
    page.fill("#prompt", ASKED)
    answer = answered(page)
    assert '"coordinate": [31, 87]' in answer
    assert TARGET[0] <= 31 <= TARGET[2]
    assert TARGET[1] <= 87 <= TARGET[3]
    assert page.inner_text("#click") == "It clicks at 31, 87."
    assert "tokens per second" in page.inner_text("#speed")
    assert page.evaluate("document.querySelector('#canvas').toDataURL()") != before  # the click is drawn
    assert page.elsewhere == []  # works without a network
    assert page.wrong == []


def test_a_text_model_answers_on_what_this_browser_offers(outputs: Path, show: Opener) -> None:
    page = show(outputs)
    picked(page, "llama", "fp32")
    page.fill("#prompt", "Hello there")
    page.fill("#count", "5")
    answered(page)
    assert page.inner_text("#speed").startswith("5 tokens after a prompt of ")
    devices = page.eval_on_selector_all("#device option", "all => all.map(option => option.value)")
    assert devices == (["webgpu", "wasm"] if page.evaluate(ADAPTER) else ["wasm"])


def test_a_text_file_is_no_image(outputs: Path, tmp_path: Path, show: Opener) -> None:
    (tmp_path / "notes.txt").write_text("not an image")
    page = show(outputs)
    picked(page, "fara", "q8")
    page.set_input_files("#file", str(tmp_path / "notes.txt"))
    page.wait_for_selector("#problem:visible")
    assert page.inner_text("#problem") == (
        "notes.txt (text/plain) is no image that this browser can read: drop a PNG, a JPEG or a WebP."
    )
    assert not page.is_visible("#canvas")
    page.set_input_files("#file", str(PICTURE))  # the next one is taken
    page.wait_for_selector("#canvas:visible")
    assert not page.is_visible("#problem")
    picked(page, "llama", "fp32")
    assert page.inner_text("#hint") == "This model takes no images."
    assert not page.is_visible("#canvas")
    assert page.wrong == []


def test_no_model_and_no_prompt_are_told(outputs: Path, tmp_path: Path, show: Opener) -> None:
    page = show(tmp_path)
    page.wait_for_selector("#problem:visible")
    assert "There is no model here that transformers.js opens: a stage with `use: onnx` makes one" in page.inner_text(
        "#problem"
    )
    page.click("#run")
    assert page.inner_text("#problem") == "There is no model to run: choose an output first."
    other = show(outputs)
    other.click("#run")
    assert other.inner_text("#problem") == "The prompt is empty: type what the model should do."


def test_a_model_too_large_for_wasm_is_told_before_it_is_loaded(tmp_path: Path, show: Opener) -> None:
    sparse(tmp_path / "large", 6_000_000_000, pieces=4)
    sparse(tmp_path / "piece", 2_500_000_000)
    page = show(tmp_path)
    said = []
    for name in ("large", "piece"):
        picked(page, name, "fp32")
        page.fill("#prompt", "Hello")
        page.click("#run")
        page.wait_for_selector("#problem:visible")
        said.append(page.inner_text("#problem"))
    assert said == [
        "fp32 has 6.0 GB of weights, and WebAssembly has 4 GB of memory for everything: "
        "make it in a smaller precision, int4 say.",
        "fp32 has a file of 2.5 GB, and a browser reads at most 2 GB in one: make it in a smaller precision, int4 say.",
    ]


def test_files_that_are_no_model_are_told_and_the_page_goes_on(tmp_path: Path, show: Opener) -> None:
    sparse(tmp_path / "broken", 100)
    page = show(tmp_path)
    picked(page, "broken", "fp32")
    page.fill("#prompt", "Hello")
    page.click("#run")
    page.wait_for_selector("#problem:visible")
    assert page.inner_text("#problem").startswith("It did not run: ")
    assert page.is_enabled("#run")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(scheme: str, outputs: Path, show: Opener) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = show(outputs, scheme)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
