"""report.html as text: what is on the page, whatever is missing, and where things are drawn."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from tests.validate.sample_report import sample_report
from tests.validate.sample_variants import empty, hostile, not_run, nulls, one, sixty, small, zero_kl
from validate.report import columns, sections, to_markdown, words
from validate.report.html import labels, to_html
from validate.report.html.images import vision_rows
from validate.report.schema import Report


@pytest.fixture(scope="module")
def report() -> Report:
    return sample_report()


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
    assert len(to_html(made).encode()) < 530_000


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
    assert shown_paths == [
        "size_bytes",
        "bits_per_weight",
        "metrics.kl_mean",
        "metrics.top1",
        "metrics.ppl_ratio",
    ]


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


def test_what_is_said_to_our_own_drawing_is_judged_nowhere() -> None:
    report = sample_report()
    images = report["outputs"][0]["vision"]["images"]
    for image, kl, next_ in zip(images, (0.001, 2.5), (2504, 7), strict=True):
        image |= {"kl": kl, "next_candidate": next_}
    row = vision_rows(report)[0]
    assert (row.kl, row.same, row.judged, len(row.rows)) == ("1.0e-3", 1, 1, 2)
    label = f"`{report['outputs'][0]['label']}`"
    vision = to_markdown(report).partition("## Vision")[2]
    assert " 1.0e-3 | 1 of 1 |" in next(line for line in vision.splitlines() if label in line)


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
