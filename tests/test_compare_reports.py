"""Two reports: what changed beyond noise, what is shown and not judged, and reports that are none."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from convert.cli import main
from convert.errors import PlanError
from convert.table import percent, report_lines, scientific
from convert.validation.read_report import json_schema, read_report
from tests.validate.sample_report import sample_report
from validate.metrics import DEFINITIONS
from validate.report.changes import Changes, Kind, OutputChange, compare
from validate.report.changes_words import to_json, to_markdown, to_text
from validate.report.same_texts import OtherTexts

LABEL = "fara-nano-Q4_K_M.gguf"
HOSTILE = "x\x1b[31m<script>|`*\n"


@pytest.fixture(scope="module")
def sample() -> Any:
    return sample_report()


def output(report: Any, label: str = LABEL) -> Any:
    return next(o for o in report["outputs"] if o["label"] == label)


def changed(sample: Any, **words: Any) -> tuple[Any, Any]:
    """A copy of the report and the output in it that has some words replaced; mappings are laid over."""
    report = copy.deepcopy(sample)
    row = output(report)
    for word, value in words.items():
        row[word] = row[word] | value if isinstance(value, dict) else value
    return report, row


def shift_windows(row: Any, kl: float, jitter: float, seed: int = 1) -> None:
    """Every window's KL by `kl` a position, more or less by `jitter`; the mean follows."""
    chance, total, positions = random.Random(seed), 0.0, 0
    for window in row["windows"]:
        window["kl"] += window["positions"] * (kl + chance.gauss(0, jitter))
        total, positions = total + window["kl"], positions + window["positions"]
    row["metrics"]["kl_mean"] = total / positions


def of(changes: Changes, label: str = LABEL) -> OutputChange:
    return next(o for o in changes.outputs if o.label == label)


def kinds(changes: Changes) -> dict[str, Kind]:
    return {change.name: change.kind for change in of(changes).metrics}


def judged(before: Any, after: Any) -> Changes:
    changes = compare(before, after)
    text, back = to_text(changes), json.loads(to_json(changes))
    assert back["worse"] == changes.worse
    assert ("Something got worse" in text) == changes.worse
    return changes


# ---- what is more than noise


def test_a_report_is_itself(sample: Any) -> None:
    changes = judged(sample, copy.deepcopy(sample))
    assert not changes.worse
    assert changes.conditions == changes.new == changes.gone == ()
    assert to_text(changes) == "Nothing got worse: of 26 outputs in both, 0 worse, 0 better, 26 the same"


def test_on_the_same_windows_a_small_steady_change_is_seen(sample: Any) -> None:
    """A tenth of the interval's half: means alone would never tell."""
    before, after = changed(sample)[0], changed(sample)[0]
    low, high = output(before)["intervals"]["kl_mean"]
    step = (high - low) / 20
    shift_windows(output(after), step, step / 20)
    change = next(m for m in of(judged(before, after)).metrics if m.name == "kl_mean")
    assert (change.kind, change.paired) == (Kind.WORSE, True)
    assert change.low is not None
    assert change.high is not None
    assert 0 < change.low < step < change.high < 2 * step
    assert kinds(judged(after, before)) == {"kl_mean": Kind.BETTER}
    assert not judged(after, before).worse


def test_on_the_same_windows_a_change_that_is_not_steady_is_noise(sample: Any) -> None:
    report, row = changed(sample)
    shift_windows(row, 0.0, 1e-3)
    assert abs(row["metrics"]["kl_mean"] - output(sample)["metrics"]["kl_mean"]) > 1e-5
    changes = judged(sample, report)
    assert kinds(changes) == {"kl_mean": Kind.NOISE}
    assert not changes.worse


def test_what_is_too_small_to_matter_is_no_change(sample: Any) -> None:
    before, after = changed(sample)[0], changed(sample)[0]
    for report, step in ((before, 0.0), (after, 5e-7)):
        shift_windows(output(report), step, 0.0)
    assert output(before)["metrics"] != output(after)["metrics"]
    assert of(judged(before, after)).metrics == ()


@pytest.mark.parametrize(
    ("name", "before", "after", "expected"),
    [
        ("click_rate", (0.95, (0.90, 0.98)), (0.90, (0.85, 0.95)), Kind.NOISE),
        ("click_rate", (0.95, (0.90, 0.98)), (0.60, (0.50, 0.70)), Kind.WORSE),
        ("click_rate", (0.60, (0.50, 0.70)), (0.95, (0.90, 0.98)), Kind.BETTER),
        ("kl_p99", (0.01, (0.008, 0.012)), (0.02, (0.017, 0.023)), Kind.WORSE),
        ("kl_p99", (0.02, (0.005, 0.03)), (0.01, (0.008, 0.02)), Kind.NOISE),
        ("tokens_equal", (1.0, None), (0.999, None), Kind.WORSE),
        ("tokens_equal", (0.999, None), (1.0, None), Kind.BETTER),
        ("kl_max", (0.5, None), (5.0, None), Kind.UNJUDGED),
    ],
)
def test_other_metrics_by_intervals_or_not_at_all(
    sample: Any, name: str, before: Any, after: Any, expected: Kind
) -> None:
    sides = []
    for value, ends in (before, after):
        report, row = changed(sample, metrics={name: value})
        row["intervals"].pop(name, None)
        row["intervals"] |= {} if ends is None else {name: ends}
        sides.append(report)
    changes = judged(*sides)
    assert kinds(changes) == {name: expected}
    assert changes.worse == (expected is Kind.WORSE)


def test_a_metric_that_is_new_is_told(sample: Any) -> None:
    report, row = changed(sample)
    del row["metrics"]["click_rate"]
    assert kinds(judged(report, sample)) == {"click_rate": Kind.UNJUDGED}


def test_a_ratio_to_another_reference_is_no_pair(sample: Any) -> None:
    report, row = changed(sample)
    for window in row["windows"]:
        window["nll"] += 0.01 * window["scored"]
    row["metrics"]["ppl_ratio"] *= 1.01
    (change,) = of(judged(sample, report)).metrics
    assert (change.name, change.kind, change.paired) == ("ppl_ratio", Kind.WORSE, True)
    assert change.low == pytest.approx(0.01005 * output(sample)["metrics"]["ppl_ratio"], rel=1e-3)
    report["reference"]["files"][0]["sha256"] = "0" * 64
    (change,) = of(judged(sample, report)).metrics
    assert not change.paired


def test_few_windows_are_compared_by_their_intervals(sample: Any) -> None:
    before, after = changed(sample)[0], changed(sample)[0]
    for report in (before, after):
        output(report)["windows"] = output(report)["windows"][:3]
    output(after)["metrics"]["kl_mean"] *= 1.2
    (change,) = of(judged(before, after)).metrics
    assert not change.paired


def test_where_one_has_read_further_what_both_have_read_is_compared(sample: Any) -> None:
    """`tokens: auto`: the harder rest of the text, which one alone has read, is no change."""
    before, after = changed(sample)[0], changed(sample)[0]
    row = output(after)
    row["windows"] += [w | {"kl": 3 * w["kl"]} for w in row["windows"]]
    row["metrics"]["kl_mean"] *= 2
    changes = judged(before, after)
    assert kinds(changes) == {"kl_mean": Kind.NOISE}
    output(before)["windows"] = [w | {"kl": w["kl"] / 2} for w in output(before)["windows"]]
    assert kinds(judged(before, after)) == {"kl_mean": Kind.WORSE}


# ---- texts


def texts(sample: Any, **words: Any) -> Any:
    """A copy of the report, its second text with other words; those that are None are taken away from every text."""
    report = copy.deepcopy(sample)
    report["window"] = words.pop("window", 512)
    for text in report["texts"]:
        for word in [word for word, value in words.items() if value is None]:
            del text[word]
    report["texts"][1] |= {word: value for word, value in words.items() if value is not None}
    return report


@pytest.mark.parametrize(
    ("before", "after", "remedy"),
    [
        ({}, {"sha256": "0" * 64, "tokens_sha256": "1" * 64}, "measure both with the same `text:`"),
        ({}, {"tokens": 5120, "windows": 10, "tokens_sha256": "1" * 64}, "measure both with the same `tokens:`"),
        ({}, {"windows": 10, "window": 256, "tokens_sha256": "1" * 64}, "measure both with the same `window:`"),
        ({}, {"tokens_sha256": "1" * 64}, "the two sources make other tokens of the same file"),
        ({"tokens_sha256": None}, {"sha256": "0" * 64}, "measure both with the same `text:`"),
        ({"tokens_sha256": None}, {"tokens": 5120}, "measure both with the same `tokens:`"),
        ({"tokens_sha256": None}, {"window": 256}, "measure both with the same `window:`"),
    ],
)
def test_other_texts_are_refused(sample: Any, before: Any, after: Any, remedy: str) -> None:
    for sides in ((before, after), (after, before)):
        with pytest.raises(OtherTexts) as caught:
            compare(*(texts(sample, **side) for side in sides))
        assert caught.value.remedy.startswith(remedy)


def test_which_set_differs_is_said_with_both_hashes_and_both_counts(sample: Any) -> None:
    name, digest = sample["texts"][1]["name"], sample["texts"][1]["tokens_sha256"]
    with pytest.raises(OtherTexts) as caught:
        compare(sample, texts(sample, tokens=5120, tokens_sha256="1" * 64))
    assert caught.value.difference == (
        f"{name} with 2560 tokens (sha256 {digest[:12]}) before, {name} with 5120 tokens (sha256 111111111111) after"
    )
    fewer = copy.deepcopy(sample)
    del fewer["texts"][2:]
    with pytest.raises(OtherTexts, match=rf"before, no such set after; {len(sample['texts']) - 3} more sets differ"):
        compare(sample, fewer)


def test_the_same_ids_are_the_same_text_whatever_the_file_is_called(sample: Any) -> None:
    assert not compare(sample, texts(sample, name="moved", source="elsewhere.txt", sha256="0" * 64)).worse


def test_a_report_without_hashes_of_ids_is_compared_with_one_that_has_them(sample: Any) -> None:
    assert compare(texts(sample, tokens_sha256=None, source=None), sample).conditions == ()


# ---- verdicts


@pytest.mark.parametrize(
    ("before", "after", "neutral", "expected"),
    [
        ("passed", "failed", False, Kind.WORSE),
        ("passed", "not_run", False, Kind.WORSE),
        ("passed", "not_run", True, Kind.UNJUDGED),
        ("not_run", "failed", False, Kind.WORSE),
        ("not_run", "passed", False, Kind.BETTER),
        ("failed", "passed", False, Kind.BETTER),
        ("failed", "not_run", False, Kind.UNJUDGED),
        ("failed", "failed", False, Kind.NOISE),
    ],
)
def test_verdicts(sample: Any, before: str, after: str, neutral: bool, expected: Kind) -> None:
    old, _ = changed(sample, status=before)
    new, _ = changed(sample, status=after, neutral=neutral, reason="because")
    changes = judged(old, new)
    assert of(changes).verdict is expected
    assert changes.worse == (expected is Kind.WORSE)
    assert ("because" in to_text(changes)) == (expected is not Kind.NOISE)


# ---- what else is told


def test_outputs_that_come_and_go_and_files_that_change(sample: Any) -> None:
    report, row = changed(sample)
    row["files"][0]["sha256"] = "0" * 64
    report["outputs"].remove(output(report, "awq/Int4"))
    output(report, "gptq/Int4")["label"] = "gptq/Int4-new"
    changes = judged(sample, report)
    assert (changes.new, changes.gone) == (("gptq/Int4-new",), ("gptq/Int4", "awq/Int4"))
    assert of(changes).files == (LABEL,)
    assert not changes.worse
    assert {"new: gptq/Int4-new", f"other files: {LABEL}"} <= set(to_text(changes).splitlines())


def test_conditions_that_changed(sample: Any) -> None:
    report = copy.deepcopy(sample)
    report["reference"]["files"][0]["sha256"] = "ab" * 32
    report["reference"]["revision"] = "abc"
    report["provenance"]["versions"]["torch"] = "9.9"
    del report["provenance"]["versions"]["numpy"]
    report["provenance"]["machine"]["cores"] = 64
    text = to_text(judged(sample, report))
    assert "version torch: 2.13.0+cpu -> 9.9\n" in text
    assert "version numpy: 2.2.6 -> none\n" in text
    assert text.endswith("\nmachine cores: 2 -> 64")
    assert "-> abababababab\n" in text


def test_speed_is_told_and_not_judged(sample: Any) -> None:
    quick, _ = changed(sample, speed={"load_seconds": 0.004})
    quicker, _ = changed(sample, speed={"load_seconds": 0.006})
    assert not of(judged(quick, quicker)).speed, "nobody waits for two thousandths of a second"
    report, _ = changed(sample, speed={"decode_tokens_per_second": 1.0, "load_seconds": 1000.0})
    changes = judged(sample, report)
    assert not changes.worse
    assert {change.name for change in of(changes).speed} == {"decode_tokens_per_second", "load_seconds"}
    assert "speed, which is shown and not judged:" in to_text(changes)
    assert "decode tokens per second" in to_markdown(changes)


def test_text_is_aligned_and_nothing_in_it_moves_a_cursor(sample: Any) -> None:
    before, after = copy.deepcopy(sample), copy.deepcopy(sample)
    for report in (before, after):
        output(report)["label"] = HOSTILE
    output(after, HOSTILE).update(status="failed", reason=HOSTILE)
    after["provenance"]["versions"][HOSTILE] = HOSTILE
    changes = judged(before, after)
    text, page = to_text(changes), to_markdown(changes)
    assert all(c.isprintable() or c == "\n" for c in text + page)
    assert "<script>" not in page
    cells = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in cells} == {7}
    head, rule, row = text.splitlines()[2:5]
    assert len(rule.partition("  ")[0]) == len(row.partition("  ")[0])
    assert head.index("before") == row.index("passed")


# ---- reports that are read


def test_the_sample_is_what_the_published_schema_says(sample: Any, tmp_path: Path) -> None:
    from pydantic import TypeAdapter

    from validate.report.schema import Report

    assert TypeAdapter(Report).validate_python(sample, strict=True)
    (tmp_path / "report.json").write_text(json.dumps(sample))
    assert compare(read_report(tmp_path), sample).outputs == compare(sample, sample).outputs
    schema = json_schema()
    assert schema["title"] == "convert report, version 2"
    assert set(schema["properties"]) == set(sample) | {"overlaps"}, "which only a report of calibrated models has"
    assert set(schema["required"]) == set(sample) - {"formats", "noise_floor", "ranking", "choices"}, (
        "reports from before it was there are read"
    )
    del sample["formats"]
    assert TypeAdapter(Report).validate_python(sample, strict=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(schema_version=3), "of schema_version 3, wanted 2; a newer convert made it: install that"),
        (lambda r: r.update(schema_version=1), "is a report of schema_version 1, wanted 2; measure again"),
        (lambda r: r.update(schema_version="2\x1b[31m"), "is a report of schema_version '2"),
        (lambda r: r.pop("schema_version"), "has no schema_version"),
        (lambda r: r.pop("outputs"), "'outputs': field required"),
        (lambda r: r["outputs"][3].update(metrics={"kl_mean": "low"}), "'outputs.3.metrics.kl_mean': input should"),
        (lambda r: r["outputs"][3].update(size_bytes=1.5), "'outputs.3.size_bytes': input should be a valid integer"),
        (lambda r: r["outputs"][0]["metrics"].update(kl_mean=float("nan")), "NaN is no JSON number"),
        (lambda r: [o.pop("label") for o in r["outputs"]], "field required (25 more such)"),
    ],
)
def test_reports_of_another_shape_are_refused(sample: Any, tmp_path: Path, change: Any, message: str) -> None:
    report = copy.deepcopy(sample)
    change(report)
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report))
    with pytest.raises(PlanError) as caught:
        read_report(path)
    (problem,) = map(str, caught.value.problems)
    assert problem.startswith(f"{path}: ")
    assert message in problem
    assert problem.isprintable()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON"),
        (b"[]", "has no schema_version"),
        (b"\xff\xfe", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b'{"schema_version": 2}', "field required"),
    ],
)
def test_files_that_are_no_report(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(PlanError, match=message):
        read_report(tmp_path)


def test_a_file_of_any_size_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "report.json", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(PlanError, match="is larger than 64 MiB"):
        read_report(tmp_path)


# ---- reports of other versions of this program

OLDEST = Path(__file__).parent / "validate" / "report_of_the_first_version_2.json"  # a row of it, as it was written


def test_the_first_report_of_this_schema_is_read_and_compared(tmp_path: Path) -> None:
    old = json.loads(OLDEST.read_text())
    assert not compare(read_report(OLDEST), old).worse
    new: Any = copy.deepcopy(old)
    for text in new["texts"]:
        text |= {"source": "our own", "tokens_sha256": "0" * 64}
    new["outputs"][0] |= {"status": "failed", "reading": None}
    path = tmp_path / "report.json"
    path.write_text(json.dumps(new))
    assert convert("compare", str(OLDEST), str(path)).exit_code == 3
    assert convert("compare", str(path), str(OLDEST)).exit_code == 0


def with_unknown_words(value: Any) -> Any:
    """The same JSON from a program that has more to say, at every depth."""
    if isinstance(value, dict):
        known = {name: with_unknown_words(inner) for name, inner in value.items()}
        free = value.keys() & {"kl_mean", "numpy", "contract"} and not value.keys() & {"windows"}
        return known if free else known | {"said_by_a_newer_program": {"what": [1, None]}}
    return [with_unknown_words(inner) for inner in value] if isinstance(value, list) else value


def test_words_of_a_newer_program_are_passed_over(tmp_path: Path) -> None:
    old = json.loads(OLDEST.read_text())
    new = with_unknown_words(old)
    new["outputs"][0]["contract"] = old["outputs"][0]["contract"]
    new["formats"] = {}
    new["outputs"][0]["metrics"]["a_new_metric"] = 1.0
    path = tmp_path / "report.json"
    path.write_text(json.dumps(new))
    result = convert("compare", str(OLDEST), str(path), "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert [change["name"] for change in json.loads(result.stdout)["outputs"][0]["metrics"]] == []


# ---- the command, and the table


def convert(*words: str) -> Result:
    return CliRunner().invoke(main, words, catch_exceptions=False)


def test_the_command(sample: Any, tmp_path: Path) -> None:
    worse, _ = changed(sample, status="failed", reason="kl_mean 1, limit <= 0.1")
    for name, report in (("a", sample), ("b", worse)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(report))
    a, b = str(tmp_path / "a"), str(tmp_path / "b" / "report.json")
    result = convert("compare", a, b)
    assert (result.exit_code, result.stdout.count(LABEL)) == (3, 1)
    assert convert("compare", b, a).exit_code == 0
    (tmp_path / "c.json").write_text(json.dumps(sample | {"outputs": []}))
    apart = convert("compare", a, str(tmp_path / "c.json"))
    assert (apart.exit_code, "Nothing to compare: no output is in both" in apart.stdout) == (2, True)
    assert json.loads(convert("compare", a, b, "--json").stdout)["worse"] is True
    assert convert("compare", a, b, "--markdown").stdout.startswith("**Something got worse")
    assert convert("compare", a, b, "--markdown", "--json").exit_code == 2
    (tmp_path / "d.json").write_text(json.dumps(texts(sample, tokens=9, tokens_sha256="1" * 64)))
    other = convert("compare", a, str(tmp_path / "d.json"))
    assert (other.exit_code, other.stdout, other.stderr.count("\n")) == (2, "", 1)
    assert f"{a} and {tmp_path / 'd.json'}: " in other.stderr
    assert other.stderr.endswith("wanted reports of the same text; measure both with the same `tokens:`\n")
    missing = convert("compare", a, str(tmp_path))
    assert (missing.exit_code, "cannot be read" in missing.stderr) == (2, True)


def test_the_table_has_the_reports_verdicts(sample: Any) -> None:
    lines = list(report_lines(sample, colour=False))
    rows = dict(zip((o["label"] for o in sample["outputs"]), lines[2:], strict=False))
    for label, line in rows.items():
        assert line.split("  ")[0] == label
        assert line.endswith(output(sample, label)["status"].replace("_", " "))
    assert " 1.20 (0.98–1.47) e-3 " in rows[LABEL]
    assert len({line.index("%") for line in rows.values() if "%" in line}) == 1
    assert lines[2 + len(rows) :][:2] == ["", "22 passed, 3 failed, 1 not run"]
    why = lines[4 + len(rows) :]
    assert [line.split(": ")[1] for line in why] == [o["label"] for o in sample["outputs"] if o["status"] != "passed"]


def test_an_interval_that_is_lopsided_is_not_said_to_be_even(sample: Any) -> None:
    report, _ = changed(sample, intervals={"kl_mean": [0.0, 0.0131]})
    assert " 1.20 (0.00–13.10) e-3 " in "\n".join(report_lines(report, colour=False))


def test_colours_are_on_verdicts_alone(sample: Any) -> None:
    import re

    plain, coloured = (list(report_lines(sample, colour=colour)) for colour in (False, True))
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in coloured] == plain
    assert "\x1b[32mpassed\x1b[0m" in coloured[2]


def test_columns_that_nobody_fills_are_left_out(sample: Any) -> None:
    report = copy.deepcopy(sample)
    for row in report["outputs"]:
        row["metrics"].pop("click_rate", None)
        row["speed"] = None
    head = next(report_lines(report, colour=False))
    assert head.split() == ["output", "size", "bits/w", "mean", "KL", "top-1", "ppl", "ratio", "tools", "verdict"]


def test_a_hostile_name_does_not_colour_a_terminal(sample: Any) -> None:
    report, _ = changed(sample, label=HOSTILE, status="failed", reason=HOSTILE)
    assert all(line.isprintable() for line in report_lines(report, colour=False))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.0, "100.0%"), (0.95, "95.0%"), (0.9999, "99.99%"), (0.99999, "99.999%"), (1 - 1e-9, "100.000000%")],
)
def test_100_percent_is_all(value: float, expected: str) -> None:
    assert percent(1)(value) == expected


@pytest.mark.parametrize(("value", "expected"), [(0.0, "0"), (1.2e-13, "1.20e-13"), (0.5, "5.00e-1"), (3.0, "3.00e0")])
def test_numbers_of_any_size(value: float, expected: str) -> None:
    assert scientific(value) == expected


def test_every_metric_of_the_sample_can_change(sample: Any) -> None:
    """No metric is unknown to the comparison."""
    report = copy.deepcopy(sample)
    for row in report["outputs"]:
        row["metrics"] = {name: None if value is None else value + 1 for name, value in row["metrics"].items()}
    found = {change.name for row in compare(sample, report).outputs for change in row.metrics}
    assert found == {name for o in sample["outputs"] for name in o["metrics"] if name in DEFINITIONS}


def test_answers_to_other_items_are_a_condition_and_no_change(sample: Any) -> None:
    drop = {"metrics": {"choice_accuracy": 0.2, "flips": 0.5, "mcnemar_p": 1e-9}}
    worse, _ = changed(sample, **drop)
    assert {"choice_accuracy", "flips"} <= kinds(compare(sample, worse)).keys()
    worse["choices"][1]["sha256"] = "f" * 64
    found = compare(sample, worse)
    assert not {"choice_accuracy", "flips", "mcnemar_p"} & kinds(found).keys()
    (condition,) = (c for c in found.conditions if c[0] == "items")
    assert condition[2].endswith("arc_easy.jsonl (100 items, ffffffff)")
