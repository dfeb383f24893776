"""report.md: what stands where, what is left out, and that nobody's words become markup."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

from tests.validate.sample_report import FAILED, UNSURE, sample_report
from tests.validate.test_report import GOOD, make_report
from validate.contract import Check, Difference
from validate.measurement import Measurement
from validate.report import Report, to_markdown
from validate.report.markdown.text import code, table, text

KEPT = GOOD | {"templates_equal": 1.0}


@pytest.fixture(scope="module")
def sample() -> str:
    return to_markdown(sample_report())


def section(page: str, heading: str) -> str:
    """What stands under a heading of the second order."""
    return page.partition(f"## {heading}")[2].partition("\n## ")[0]


def tables(page: str) -> list[list[str]]:
    """The lines of each table."""
    return [block.splitlines() for block in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)]


def cells(line: str) -> list[str]:
    return re.split(r"(?<!\\)\|", line)[1:-1]


# ---- the verdict


def test_the_page_opens_with_the_verdict(sample: str) -> None:
    head = sample.partition("\n## ")[0]
    assert head.startswith("# demo: 3 of 26 outputs did not pass\n")
    for label in FAILED:
        assert f"- **FAILED** `{label}`: " in head
    assert "- **NOT RUN** `tensorrt/fp32`: built, not run: no CUDA device" in head
    assert "kl_mean 0.0262, limit ≤ 0.01" in head


def test_how_surely_is_said(sample: str) -> None:
    head = sample.partition("\n## ")[0]
    limit = "kl_mean 0.00363, limit ≤ 0.0035 (not surely: 63 % of resampled texts miss it)"
    assert f"- **FAILED** `{UNSURE}`: {limit}\n" in head
    assert "kl_mean 0.0262, limit ≤ 0.01 (surely: 100 % of resampled texts miss it)" in head
    assert "- Passed, but not surely: " in head
    assert "`fara-nano-i1-Q3_K_M.gguf`" in head


def test_a_limit_missed_by_chance_is_told_in_one_bracket() -> None:
    unsure = Measurement(metrics=KEPT | {"kl_mean": 0.2}, draws={"kl_mean": np.linspace(0.05, 0.25, 101)})
    head = to_markdown(make_report(unsure)).partition("\n## ")[0]
    assert "kl_mean 0.2, limit ≤ 0.1 (not surely: 74 % of resampled texts miss it)\n" in head


def test_a_check_that_has_nothing_to_compare_says_so() -> None:
    silent = Check("templates", "chat template", 0, 0, (), "templates_equal", "the source has no chat template")
    page = to_markdown(make_report(Measurement(metrics=dict(KEPT), checks=[silent])))
    assert "- Chat template, not compared: the source has no chat template (`m0`)" in page
    assert ", :" not in page


def test_a_text_too_short_for_intervals_is_said_before_the_tables() -> None:
    report = make_report(Measurement(metrics=KEPT | {"positions": 31}))
    said = "- Text: 31 tokens (too few to say how surely anything holds: measure on more)"
    assert said in to_markdown(report).partition("\n## ")[0]
    sure = Measurement(metrics=KEPT | {"positions": 31}, intervals={"kl_mean": (0.0005, 0.0015)})
    assert said not in to_markdown(make_report(sure))


def test_what_to_do_is_said_once_for_all_whom_it_helps(sample: str) -> None:
    todo = [line for line in sample.splitlines() if line.startswith("- What to do")]
    assert len(todo) == len(set(todo)) == 6, "four by limits, two name a place"
    assert "publish a finer type" in todo[0]
    assert todo[0].startswith("- What to do (`Q3_K_M` and `Q2_K`): ")


def test_pages_of_passes_of_one_and_of_nothing() -> None:
    good = Measurement(metrics=dict(KEPT))
    assert to_markdown(make_report(good)).startswith("# demo: the output passed\n")
    assert to_markdown(make_report()).startswith("# demo: nothing was validated\n")
    lacking = Measurement(not_run="built, not run: no CUDA device", lacking=True)
    page = to_markdown(make_report(good, lacking))
    assert page.startswith("# demo: the output passed, 1 more built and not run\n")
    assert "- **NOT RUN** `m1.gguf`: built, not run: no CUDA device" in page
    assert "a machine that can" in page
    assert to_markdown(make_report(lacking)).startswith("# demo: built and not run\n")
    missing = Measurement(not_run="x is not installed")
    assert to_markdown(make_report(good, missing)).startswith("# demo: 1 of 2 outputs did not pass\n")


def test_a_failure_says_what_to_do() -> None:
    drifted = Measurement(metrics=KEPT | {"kl_mean": 0.3})
    chat = Measurement(metrics=GOOD | {"templates_equal": 0.5})
    page = to_markdown(make_report(drifted, chat, Measurement(failures=["it died"]), Measurement(not_run="no runtime")))
    todo = [line for line in page.splitlines() if "What to do" in line]
    assert len(todo) == 4
    assert "publish a finer type" in todo[0]
    assert "Do not publish it: chats" in todo[1]
    assert "onvert it again" in todo[2]
    assert "run again" in todo[3]


def test_what_was_not_looked_at_is_said_before_the_tables() -> None:
    good = Measurement(metrics=dict(KEPT), vision_reason="no projector was made beside this file")
    head = to_markdown(make_report(good)).partition("## ")[0]
    assert "Images: **not checked** for `m0.gguf`: no projector was made beside this file" in head


# ---- tables


def test_one_table_has_a_row_for_each_output(sample: str) -> None:
    first = tables(section(sample, "Outputs"))[0]
    assert len(first) == 2 + 26
    heads = [cell.strip() for cell in cells(first[0])]
    assert heads[:4] == ["Output", "Verdict", "Size, MB", "Bits per weight"]
    assert "Decode, tok/s \\*" in heads  # the star of "indicative"
    row = dict(zip(heads, (cell.strip() for cell in cells(first[7])), strict=True))
    assert row["Output"] == "`fara-nano-Q4_K_M.gguf`"
    assert re.fullmatch(r"1\.2e-3 \(\d\.\d–\d\.\de-3\)", row["KL, nats, mean"])
    assert row["Same top token, %"] == "96.31"
    assert row["Clicks hit, % (source 95.0)"] == "95.0"
    assert row["Tool calls, % (source 91.7)"] == "91.7"
    assert "indicative" in section(sample, "Outputs")


def test_every_table_is_one(sample: str) -> None:
    for block in tables(sample):
        assert len({len(cells(line)) for line in block}) == 1, block[0]
        assert re.fullmatch(r"\|( :--| --:| \|)+", block[1].rstrip())


def test_columns_that_nobody_has_are_left_out() -> None:
    page = to_markdown(make_report(Measurement(metrics=dict(KEPT), parameters=1000)))
    head = tables(page)[0][0]
    assert "Clicks" not in head
    assert "Decode" not in head
    assert "| `m0.gguf` | passed | 1.23 | 9.87 | 1.0e-3 | 99.00 | 1.0010 |" in page
    assert "## Vision" not in page
    assert "worst positions" not in page


def test_limits_of_the_recipe_unfold_and_defaults_are_a_sentence(sample: str) -> None:
    limits = section(sample, "Limits").partition("<details><summary>Where it drifts")[0]
    loud = tables(limits)[0]
    assert any("`fara-nano-Q2_K.gguf` | `kl_mean` | 0.0262 | ≤ 0.01 | recipe | **broken** | surely" in r for r in loud)
    assert not any("`top1`" in row for row in loud)  # kept
    assert limits.count("<details>") == 1
    (sentence,) = [line for line in limits.splitlines() if line.startswith("Kept, and not listed")]
    assert "`special_ids_equal`" in sentence
    assert "| `special_ids_equal` |" not in limits
    page = to_markdown(make_report(Measurement(metrics=dict(GOOD))))
    assert "| `templates_equal` | not measured | ≥ 1 | default | **not measured** |" in page


def test_slices_and_worst_positions_are_folded(sample: str) -> None:
    folded = re.findall(r"<details><summary>(.*?)</summary>\n\n(.*?)\n</details>\n", sample, re.DOTALL)
    inside = dict(folded)
    assert sample.count("<details>") == len(folded) == sample.count("</details>")
    slices = tables(inside["Where it drifts: KL of parts of the text"])[0]
    assert len(slices) == 2 + 25
    assert "multilingual" in slices[0]
    assert "**" in slices[2]  # parts that differ beyond the noise
    worst = tables(inside["The worst positions of each output"])[0]
    assert sum("`fara-nano-Q2_K.gguf`" in row for row in worst) == 3
    assert not any("`onnx/fp32`" in row for row in worst)  # its worst is 7e-11
    assert "`␣March` 80.0 %" in inside["The worst positions of each output"]


def test_the_contract_says_what_is_equal_once_and_what_differs_where(sample: str) -> None:
    contract = section(sample, "Contract")
    assert "Equal in all 25 outputs that were checked: special tokens; text of every token id;" in contract
    bad, _, quiet = contract.partition("<details>")
    assert "- Chat template of the file, rendered by jinja2, **differs**: 2 of 20 differ (`genai/int4`)" in bad
    assert r"| `tools` | `…'# Tools\n\nYou may call'` | `…'You may call'` |" in bad
    assert "- Not checked: `tensorrt/fp32`: built, not run: no CUDA device." in bad
    assert "Strings that are not in normal form" in quiet
    assert quiet.count("Strings that are not in normal form") == 1  # of thirteen files


def test_images_have_a_row_for_each_output_that_sees(sample: str) -> None:
    block = tables(section(sample, "Vision"))[0]
    assert len(block) == 2 + 24
    assert "0.9999995" in block[2]
    assert "1 of 1" in block[2]  # the drawing of ours is not asked about
    assert "85.0 % (95.0 %)" in next(row for row in block if "`fara-nano-Q2_K.gguf`" in row)


def test_the_method_says_what_ran_where_on_what(sample: str) -> None:
    method = section(sample, "How it was measured")
    assert "all logits were kept (102.89 MB)" in method
    assert "tools (2\u202f560 tokens, conversations, sha256" in method
    assert "20 windows of at most 512 tokens" in method
    assert "on llama.cpp (xllamacpp 2026.10.11549), CPU, KV cache in F32" in method
    assert "- Nothing ran on TensorRT" in method
    assert "Made with `convert run recipes/demo.yaml`; recipe sha256" in method
    files = [line for line in method.splitlines() if re.fullmatch(r"- `.*` [0-9a-f]{64}", line)]
    assert len(files) == len(set(files)) == len({f["sha256"] for f in every_file(sample_report())})


def every_file(report: Report) -> list[Any]:
    return [*report["reference"]["files"], *(f for o in report["outputs"] for f in o["files"])]


def test_what_was_sampled_of_the_reference_is_said() -> None:
    report = sample_report()
    cache = report["reference"]["cache"]
    cache |= {"whole": False, "tokens_kept": 3120.4, "tail_mass": 0.0001, "tail_mass_max": 0.01}
    page = to_markdown(report)
    assert "of 2\u202f512 logits a position 3120 were kept" in page
    assert "on average, a random sample" in page


def test_a_report_of_26_outputs_is_one_to_read(sample: str) -> None:
    shown = re.sub(r"<details>.*?</details>", "", sample, flags=re.DOTALL)
    assert len(shown.splitlines()) < 170
    assert len(sample) < 60_000  # GitHub cuts a comment at 65 536


# ---- strangers' words

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)> </details> <!-- | a | b |",
    "`` ` [x](javascript:alert(1)) ![i](http://x/y.png) **b** ~~s~~ &lt;b&gt; \\` \\| <http://x.y>",
    "\n\n# h\n\n| a | b |\n| - | - |\n> q\n\n- l\n\x1b[31m\u202e\u2028\ud800",
)


def poisoned(value: Any, words: str) -> Any:
    """Every text of a report that is not one of the program's own words."""
    own = {"kind", "status", "better", "source", "metric"}
    if isinstance(value, dict):
        return {k: v if k in own else poisoned(v, words) for k, v in value.items()}
    if isinstance(value, list):
        return [poisoned(v, words) for v in value]
    return f"{value}{words}" if isinstance(value, str) else value


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_words_everywhere_render_as_words(sample: str, words: str) -> None:
    """As a renderer of GitHub's Markdown sees it: the same tables and headings, no element of a stranger's."""
    render = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render
    clean, page = render(sample), render(to_markdown(poisoned(sample_report(), words)))
    for tag in ("<h1>", "<h2>", "<h3>", "<details>", "</details>", "<blockquote>", "<script", "<img", "<a ", "<s>"):
        assert page.count(tag) == clean.count(tag), tag
    rows = [re.findall(r"<t[hd][ >]", row) for row in re.findall(r"<tr>.*?</tr>", page, re.DOTALL)]
    assert [len(row) for row in rows] == [
        len(re.findall(r"<t[hd][ >]", row)) for row in re.findall(r"<tr>.*?</tr>", clean, re.DOTALL)
    ]
    assert not {"\u202e", "\u2028", "\x1b", "\ud800"} & set(page)


def test_a_strangers_words_are_no_markup() -> None:
    page = to_markdown(make_report(Measurement(failures=["a|b\n# <script>alert(1)</script> [x](y) `c` *d*"])))
    assert r"a|b # \<script>alert(1)\</script> \[x\](y) \`c\` \*d\*" in page
    assert "<script" not in page.replace(r"\<script", "")


def test_strange_labels_tokens_and_differences_stay_in_their_cells() -> None:
    report = sample_report()
    row = report["outputs"][0]
    row["label"] = "a|b`c\u202e\n| x |"
    row["worst"][0] |= {"before": "</details>\n\n| a | b |`", "next": "\u2028|"}
    check = Check("templates", "t|<b>", 2, 1, (Difference("u", "'a|b'", "'a`b\n'"),), "templates_equal")
    bad = Measurement(metrics=GOOD | {"templates_equal": 0.5}, checks=[check])
    for page in (to_markdown(report), to_markdown(make_report(bad))):
        for block in tables(page):
            assert len({len(cells(line)) for line in block}) == 1
        assert not {"\u202e", "\u2028", "\x1b"} & set(page)
    page = to_markdown(report)
    assert "`a\\|b'c⟨U+202E⟩⏎\\| x \\|`" in page
    assert page.count("\n</details>") == page.count("<details>")
    assert r"| `u` | `'a\|b'` | `'a'b⏎'` |" in to_markdown(make_report(bad))


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("kl_mean <= 3", "kl_mean <= 3"),
        ("_x_ ~y~ &lt; <b>", r"\_x\_ \~y\~ \&lt; \<b>"),
        ("1. one", r"1\. one"),
        ("2.13.0 is", "2.13.0 is"),
        ("- x", r"\- x"),
        ("> x", r"\> x"),
        ("\ud800", "⟨U+D800⟩"),
    ],
)
def test_plain_words_stay_readable(words: str, shown: str) -> None:
    assert text(words) == shown


def test_pipes_in_tables_are_escaped_once() -> None:
    assert list(table(["a"], "l", [[code("x|y")], [text(r"x\|y")]]))[2:4] == [r"| `x\|y` |", r"| x\\\|y |"]
