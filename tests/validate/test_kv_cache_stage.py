"""`kv_cache:` from a recipe to the report, on llama.cpp."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convert import load_recipe
from convert.bundle import Bundle
from convert.errors import RecipeError
from convert.recipe import json_schema
from convert.validation.outputs import outputs
from convert.validation.stage import STAGE as stage
from convert.validation.stage import _candidate
from tests import tiny
from tests.fixtures_validate import convert_tiny
from tests.validate.sample_variants import hostile, small
from tests.validate.test_validate_stage import report_of
from validate.kv_cache import CacheDrift, CacheRow, Needles
from validate.measured import Measured
from validate.measurement import Candidate, Measurement, Questions
from validate.report import to_html, to_markdown
from validate.report.cache_words import caches

FEW = {"tokens": 128, "window": 32, "threads": 1}


@pytest.fixture(scope="module")
def wide_heads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """A Qwen2 whose heads are whole blocks of 32 values."""
    return convert_tiny(tiny.tiny_qwen2, tmp_path_factory.mktemp("wide"), ["F32", "Q8_0"], heads=2, kv_heads=2)


def test_the_types_a_recipe_names_are_in_the_report(wide_heads: dict[str, Bundle], tmp_path: Path) -> None:
    options = stage.Options(
        kv_cache={"types": ["q8_0", "q8_0/q4_0"], "on": "F32"}, limits={"F32": {"kv_cache_kl": 1e-9}}, **FEW
    )
    assert stage.check(options, wide_heads) == []
    report, page = report_of(options, wide_heads, tmp_path)
    exact, rounded = report["outputs"]
    assert rounded["kv_cache"] is None
    assert exact["status"] == "failed"
    assert exact["reason"].startswith("kv_cache_kl ")
    rows = exact["kv_cache"]["rows"]
    assert [(row["k"], row["v"], row["asked"]) for row in rows] == [
        *(("f32", "f32", False), ("f16", "f16", False)),
        *(("q8_0", "q8_0", True), ("q8_0", "q4_0", True)),
    ]
    assert rows[1]["kl"] < rows[2]["kl"] < rows[3]["kl"] == exact["metrics"]["kv_cache_kl"]
    assert rows[0]["bytes_limit"] > rows[1]["bytes_limit"] > rows[2]["bytes_limit"] > rows[3]["bytes_limit"]
    assert "## Key-value cache" in page
    assert page.count("| `q8_0` | `q4_0` |") == 1


def test_what_was_measured_with_other_types_is_not_taken_for_these(tmp_path: Path) -> None:
    one = Candidate(Path("m.gguf"), None, None, 1, key="its files")
    asked = Questions([[1, 2]], kv_cache=stage.Options(kv_cache=["q8_0"]).kv_cache.question)
    found = CacheDrift(
        512, 2, [CacheRow("q8_0", "q8_0", True, True, kl=0.1, needles=[Needles(512, 2, 1, -1.0, None)])], ""
    )
    Measured(tmp_path, asked).save(one, Measurement(kv_cache=found))
    again = Measured(tmp_path, asked).load(one)
    assert again is not None
    assert again.kv_cache == found
    for other in (["q4_0"], {"types": "q8_0", "longest": 300}, None):
        options = stage.Options(kv_cache=other)
        question = None if options.kv_cache is None else options.kv_cache.question
        assert Measured(tmp_path, Questions([[1, 2]], kv_cache=question)).load(one) is None


def test_an_output_that_was_measured_without_them_is_measured_again(wide_heads: dict[str, Bundle]) -> None:
    hashed = {
        name: replace(b, roles={r: tuple(replace(a, sha256="0" * 64) for a in files) for r, files in b.roles.items()})
        for name, b in wide_heads.items()
    }
    rows = outputs(hashed)
    keys = [
        [_candidate(stage.Options(kv_cache={"types": "q8_0", "on": on}), row, hashed, {}, "").key for row in rows]
        for on in ("F32", "Q8_0", [])
    ]
    assert all(all(of_one) for of_one in keys)
    assert [len(set(of_row)) for of_row in zip(*keys, strict=True)] == [2, 2]
    assert (keys[0][0], keys[1][1]) == tuple(keys[2])


def test_nothing_is_measured_and_nothing_said_where_no_type_is_named(
    wide_heads: dict[str, Bundle], tmp_path: Path
) -> None:
    report, page = report_of(stage.Options(**FEW), wide_heads, tmp_path)
    assert [output["kv_cache"] for output in report["outputs"]] == [None, None]
    assert "Key-value cache" not in page
    assert "kv_cache_kl" not in report["outputs"][0]["metrics"]


# ---- options


@pytest.mark.parametrize(
    ("written", "types", "on", "longest"),
    [
        ("q8_0", ["q8_0"], [], None),
        ("[f16, q8_0/q4_0, f16]", ["f16", "q8_0/q4_0"], [], None),
        ("{types: q8_0, on: F16, longest: 4096}", ["q8_0"], ["F16"], 4096),
    ],
)
def test_a_word_a_list_or_all_there_is_to_say(
    tmp_path: Path, written: str, types: list[str], on: list[str], longest: int | None
) -> None:
    asked = load_recipe(recipe(tmp_path, written)).stages["validate"].options.kv_cache  # type: ignore[attr-defined]
    assert (asked.types, asked.on, asked.longest) == (types, on, longest)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("[q8]", "'q8': llama.cpp has no cache of type 'q8', only f32, f16, bf16, q8_0,"),
        ("q8_0/Q4_0", "'q8_0/Q4_0': llama.cpp has no cache of type 'Q4_0', only"),
        ("[]", "at least 1"),
        ("{on: F16}", "'types' is missing"),
        ("{types: q8_0, longst: 3}", "longst"),
        ("{types: q8_0, longest: 10}", "256"),
    ],
)
def test_what_is_none_of_these_is_one_problem(tmp_path: Path, written: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe(tmp_path, written))
    (problem,) = map(str, caught.value.problems)
    assert "recipe.yaml:" in problem
    assert said in problem


def recipe(folder: Path, written: str) -> Path:
    path = folder / "recipe.yaml"
    tiny.tiny_llama(folder / "model")
    path.write_text(
        "name: r\nmodel: {path: model}\nstages:\n  a: {use: gguf, types: [F16]}\nvalidate:\n  kv_cache: " + written
    )
    return path


def test_an_editor_is_told_every_form() -> None:
    schema = json_schema()["properties"]["validate"]["anyOf"][0]
    kinds = json.dumps(schema["properties"]["kv_cache"]["anyOf"])
    assert all(word in kinds for word in ('"string"', '"array"', "KvCache", '"null"'))


def test_names_of_nothing_and_of_what_has_no_cache_are_problems(wide_heads: dict[str, Bundle]) -> None:
    (unknown,) = stage.check(stage.Options(kv_cache={"types": "q8_0", "on": "Q9_0"}), wide_heads)
    assert "kv_cache: on for 'Q9_0', which is no output of this recipe" in str(unknown)
    problems = stage.check(stage.Options(kv_cache="q8_0"), {"source": wide_heads["source"]})
    assert any("kv_cache, and no stage makes a GGUF file" in str(problem) for problem in problems)


def test_more_work_is_foreseen(wide_heads: dict[str, Bundle]) -> None:
    plain, asked, one = (
        stage.work(stage.Options(kv_cache=kv, **FEW), wide_heads, wide_heads["gguf"])
        for kv in (None, ["q8_0"], {"types": "q8_0", "on": "F32"})
    )
    assert plain < one < asked


# ---- report


def test_a_type_that_is_not_possible_says_why_and_texts_that_were_not_read_too() -> None:
    made = small()
    found = caches(made)
    assert found is not None
    assert [row.per_1k for row in found.rows][-1] == "not possible"
    assert found.lengths == ["1\u202f024", "2\u202f048"]
    assert found.limit == "8\u202f192 tokens"
    page = to_markdown(made)
    assert "iq4\\_nl" in page or "iq4_nl" in page
    assert "does not divide n_embd_head_k=24" in page
    assert "no longer texts were read: 8,192 tokens would take long" in page
    html = to_html(made)
    assert html.count('<a href="#caches">') == 1
    assert "does not divide n_embd_head_k=24" in html
    assert "<td>10 of 10</td>" in html.replace(' class="n"', "")


def test_reports_made_before_have_no_such_part() -> None:
    made: Any = small()
    for output in made["outputs"]:
        output.pop("kv_cache", None)
    assert caches(made) is None
    assert "#caches" not in to_html(made)


def test_strangers_words_are_no_markup() -> None:
    assert "<script>window.hit" not in to_html(hostile(small()))


def test_many_rows_are_folded() -> None:
    made = small()
    entry = made["outputs"][0]["kv_cache"]
    assert entry is not None
    entry["rows"] = entry["rows"] * 4
    assert "<summary>Cache types of each output</summary>" in to_markdown(made)
    assert "<summary>Cache types of each output</summary>" not in to_markdown(small())
