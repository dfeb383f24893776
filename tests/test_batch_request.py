"""What a batch is asked: models, lists, batch.yaml, variables; every problem of every line at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from convert.batch.jobs import Jobs, jobs_of
from convert.batch.models import Found, add_list
from convert.batch.options import bytes_of
from convert.batch.request import request_of
from convert.batch.variables import substituted, typed
from convert.errors import PlanError
from convert.recipe import load_recipe

GGUF = "stages:\n  gguf: {use: gguf, types: [Q8_0]}\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("A-1B", "B-7B", "tiny-C"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "config.json").write_text("{}")
    (tmp_path / "gguf.yaml").write_text(GGUF)
    return tmp_path


def jobs(*words: str, recipe: tuple[str, ...] = ("gguf.yaml",), lists: tuple[str, ...] = ()) -> Jobs:
    return jobs_of(request_of(words, recipe, lists), Path("out"))


def names(found: Jobs) -> list[str]:
    return [job.name for job in found.jobs]


def said(found: Jobs) -> list[str]:
    return [str(problem) for problem in (*found.problems, *found.bad)]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("models/A-1B",), ["A-1B"]),
        (("models",), ["A-1B", "B-7B", "tiny-C"]),
        (("models/*-?B",), ["A-1B", "B-7B"]),
        (("org/Name@v1", "models/B-7B/"), ["Name", "B-7B"]),
    ],
)
def test_models_by_folder_pattern_and_hub(place: Path, words: tuple[str, ...], wanted: list[str]) -> None:
    found = jobs(*words)
    assert (names(found), said(found)) == (wanted, [])


def test_the_recipe_of_a_model_is_whole_wherever_it_lies(place: Path) -> None:
    (place / "text.txt").write_text("x")
    (place / "gguf.yaml").write_text(
        "model: {strict: true}\nstages:\n  i: {use: imatrix, text: text.txt}\n"
        "  gguf: {use: gguf, from: i, types: [Q8_0]}\nvalidate: {text: [text.txt], tokens: 512}\n"
    )
    (job,) = jobs("models/A-1B").jobs
    assert not job.path.exists(), "nothing is written before it runs"
    job.write()
    recipe = load_recipe(job.path)
    assert recipe.name == "A-1B"
    source = dict(recipe.stages["source"].options)
    assert (source["path"], source["strict"], source["name"]) == (place / "models/A-1B", True, None)
    assert dict(recipe.stages["i"].options)["text"] in (place / "text.txt", (place / "text.txt",), [place / "text.txt"])
    assert list(dict(recipe.stages["validate"].options)["text"]) == [place / "text.txt"]
    assert recipe.sha256 == job.sha256
    assert job.text.startswith("# Made by `convert batch` of gguf.yaml for command line.\nname: A-1B\n")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("l.txt", "# all\n../models/A-1B type=Q4_0 n=3\n\norg/Name revision=v1 name=Two type='Q6_K' # one more\n"),
        ("l.csv", "model,name,revision,type,n\n../models/A-1B,,,Q4_0,3\norg/Name,Two,v1,Q6_K,\n"),
        (
            "l.jsonl",
            '{"path": "../models/A-1B", "type": "Q4_0", "n": 3}\n'
            '{"hub": "org/Name", "name": "Two", "revision": "v1", "variables": {"type": "Q6_K"}}\n',
        ),
    ],
)
def test_lists_with_variables(place: Path, file: str, text: str) -> None:
    (place / "lists").mkdir()
    (place / "lists" / file).write_text(text)
    (place / "gguf.yaml").write_text('stages:\n  gguf: {use: gguf, types: ["{{type}}"], name: "x-{{model.name}}"}\n')
    found = jobs(lists=(f"lists/{file}",))
    assert said(found) == []
    assert names(found) == ["A-1B", "Two"]
    first, second = found.jobs
    assert (first.model, second.model) == (str(place / "models/A-1B"), "org/Name@v1")
    assert "- Q4_0" in first.text
    assert "name: x-A-1B" in first.text
    assert "- Q6_K" in second.text
    assert "revision: v1\n  name: Two" in second.text
    known = found_models(place / "lists" / file)
    assert known["A-1B"] == {"type": "Q4_0", "n": 3}


def found_models(path: Path) -> dict[str, Mapping[str, object]]:
    found = Found()
    add_list(found, path)
    return {model.name: model.variables for model in found.models}


@pytest.mark.parametrize(
    ("file", "text", "wanted"),
    [
        (
            "l.txt",
            "models/none\nmodels/A-1B type\n'open\nmodels/B-7B model.x=1\n",
            [
                "l.txt:1: 'models/none' is not there, wanted a folder, or org/name[@revision] of the hub",
                "l.txt:2: 'type' follows the model, wanted variable=value",
                "l.txt:3: cannot be read: No closing quotation, wanted MODEL [variable=value …]",
                "l.txt:4: 'model.x' cannot name a variable, wanted letters, digits and '_', and none of model, recipe",
            ],
        ),
        (
            "l.csv",
            "model,type\nmodels/A-1B,Q4_0,more\n,Q4_0\n",
            [
                "l.csv:2: has 3 cells, wanted 2, as its first line; quote a cell with commas",
                "l.csv:3: names no model, wanted one of model, path and hub",
            ],
        ),
        (
            "l.csv",
            "name,type\nx,y\n",
            ["l.csv:1: has the columns name, type, wanted a column `model`, `path` or `hub`"],
        ),
        (
            "l.jsonl",
            '{"model": 3}\n[1]\n{"model": "models/A-1B", "x": {"y": 1}}\nnot json\n',
            [
                "l.jsonl:1: model is 3, wanted a text",
                "l.jsonl:2: is [1], wanted an object",
                "l.jsonl:3: 'x' is {'y': 1}, wanted a text, a number, or a list of them",
                "l.jsonl:4: is not valid JSON (Expecting value: line 1 column 1 (char 0)), wanted an object a line",
            ],
        ),
        ("l.txt", "# nothing\n", ["l.txt: names no model, wanted a line a model"]),
        ("l.md", "", ["l.md: is called .md, wanted .txt, .csv or .jsonl"]),
        (
            "l.txt",
            "models/A-1B name=../up\n",
            ["l.txt:1: cannot be called '../up', wanted letters, digits, '.', '_' and '-'"],
        ),
    ],
)
def test_every_wrong_line_is_told_with_its_place(place: Path, file: str, text: str, wanted: list[str]) -> None:
    (place / file).write_text(text)
    got = [line for line in said(jobs(lists=(file,))) if not line.startswith("the batch")]
    assert len(got) == len(wanted)
    for line, start in zip(got, wanted, strict=True):
        assert line.startswith(start), line


def test_two_of_one_name_and_one_that_is_there_twice(place: Path) -> None:
    (place / "other/A-1B").mkdir(parents=True)
    found = jobs("models/A-1B", "other/A-1B", "models/B-7B", "models/../models/B-7B")
    assert names(found) == ["A-1B", "B-7B"]
    one, two = said(found)
    assert one.startswith(
        f"command line: {place}/other/A-1B: is 'A-1B', the name of another model, named at command line"
    )
    assert "give one of them a `name`" in one
    assert "is the same model" in two or "is 'B-7B'" in two


def test_a_batch_file(place: Path) -> None:
    (place / "onnx.yaml").write_text('stages:\n  onnx: {use: onnx, precision: ["{{precision}}"]}\n')
    (place / "batch.yaml").write_text(
        "models:\n  - models/*\n  - {hub: org/Big, variables: {precision: fp16}}\n"
        "recipes: [gguf.yaml, onnx.yaml]\n"
        "variables: {precision: int8}\n"
        'exclude: [{model: "tiny-*"}, {model: Big, recipe: gguf}]\n'
        "include: [{model: tiny-C, recipe: gguf}]\n"
        "limits: {memory: 16GB, disk: 1.5 TB, downloads: 1}\nkeep: report\norder: listed\n"
    )
    request = request_of(["batch.yaml"])
    found = jobs_of(request, Path("out"))
    assert said(found) == []
    assert names(found) == ["A-1B-gguf", "A-1B-onnx", "B-7B-gguf", "B-7B-onnx", "tiny-C-gguf", "Big-onnx"]
    assert (request.limits.memory, request.limits.disk, request.keep) == (16 * 10**9, 1500 * 10**9, "report")
    assert "- fp16" in found.jobs[-1].text, "a model's own variable goes first"
    assert "- int8" in found.jobs[1].text


def test_every_problem_of_a_batch_file_at_once(place: Path) -> None:
    (place / "batch.yaml").write_text(
        "models:\n  - {path: models/A-1B, nam: x}\nrecipes: gguf.yaml\nlimits:\n  memory: much\n  job: 2\norder: fast\n"
    )
    with pytest.raises(PlanError) as caught:
        request_of(["batch.yaml"])
    lines = [str(problem) for problem in caught.value.problems]
    assert any(line.startswith("batch.yaml:2: unknown key 'nam'; did you mean 'name'?") for line in lines), lines
    assert any(line.startswith("batch.yaml:5: memory: 'much' is no size: write 500MB, 16GB or 2TB") for line in lines)
    assert any(line.startswith("batch.yaml:6: unknown key 'job'; did you mean 'jobs'?") for line in lines)
    assert any(line.startswith("batch.yaml:7: order: input should be 'listed'") for line in lines)


@pytest.mark.parametrize(
    ("words", "recipe", "wanted"),
    [
        ((), (), "names nothing to convert"),
        (("gguf.yaml",), ("gguf.yaml",), "names a recipe and no model"),
        (("models",), (), "names models and no recipe"),
        (("none.yaml",), (), "none.yaml: cannot be read"),
    ],
)
def test_what_is_missing(place: Path, words: tuple[str, ...], recipe: tuple[str, ...], wanted: str) -> None:
    with pytest.raises(PlanError, match=wanted):
        request_of(words, recipe)


def test_recipes_that_name_their_model(place: Path) -> None:
    (place / "a.yaml").write_text(f"name: one\nmodel: {{path: models/A-1B}}\n{GGUF}")
    (place / "b.yaml").write_text(f"name: two\nmodel: {{hub: org/X}}\n{GGUF}")
    found = jobs("a.yaml", "b.yaml", recipe=())
    assert [(job.name, job.path, job.text, job.hub) for job in found.jobs] == [
        ("one", place / "a.yaml", "", ""),
        ("two", place / "b.yaml", "", "org/X"),
    ]


def test_what_a_recipe_has_wrong_is_told_once_for_all_models(place: Path) -> None:
    (place / "gguf.yaml").write_text("stages:\n  gguf: {use: gguf, typs: [Q8_0]}\n")
    found = jobs("models")
    assert names(found) == []
    assert said(found) == ["gguf.yaml:2: unknown key 'typs'; did you mean 'types'?"]


def test_a_variable_that_is_none_names_its_line_and_its_model(place: Path) -> None:
    (place / "gguf.yaml").write_text('stages:\n  gguf:\n    use: gguf\n    types: ["{{tpye}}"]\n')
    (place / "l.txt").write_text("models/A-1B type=Q8_0\n")
    (problem,) = said(jobs(lists=("l.txt",)))
    assert problem == "gguf.yaml:4: for the model of l.txt:1: there is no variable 'tpye'; did you mean 'type'?"


# ---- variables


@pytest.mark.parametrize(
    ("node", "wanted"),
    [
        ("{{n}}", 3),
        ("{{ n }}", 3),
        ("x-{{n}}-{{t}}", "x-3-{{n}}"),  # what was put in is not looked at again
        ("{{list}}", ["a", 1]),
        ({"k": ["{{yes}}", "plain"]}, {"k": [True, "plain"]}),
        ({"a": 1}, {"a": 1}),
    ],
)
def test_variables_are_values_and_never_structure(node: object, wanted: object) -> None:
    known = {"n": 3, "t": "{{n}}", "list": ["a", 1], "yes": True, "evil": "x\nstages: {}"}
    problems: list[object] = []
    assert substituted(node, known, lambda *words: problems.append(words)) == wanted
    assert problems == []
    assert substituted("{{evil}}", known, lambda *words: problems.append(words)) == "x\nstages: {}"


@pytest.mark.parametrize("node", ["{{none}}", "a {{ b", "{{a-b}}", "x{{list}}", {"{{n}}": 1}])
def test_what_cannot_be_put_in_is_told(node: object) -> None:
    problems: list[object] = []
    substituted(node, {"n": 3, "list": ["a"]}, lambda *words: problems.append(words))
    assert len(problems) == 1


def test_a_hostile_variable_stays_a_value(place: Path) -> None:
    words = {"model": "models/A-1B", "type": "Q8_0]\nstages: {x: {use: gguf}}"}
    (place / "l.jsonl").write_text(json.dumps(words) + "\n")
    (place / "gguf.yaml").write_text('stages:\n  gguf: {use: gguf, types: ["{{type}}"]}\n')
    (problem,) = said(jobs(lists=("l.jsonl",)))
    assert problem.startswith("gguf.yaml:2: types: ") or "Q8_0]" in problem


@pytest.mark.parametrize(
    ("text", "value"), [("3", 3), ("1e-3", 0.001), ("true", True), ("Q4_0", "Q4_0"), ("007x", "007x")]
)
def test_cells_are_read_as_yaml_reads_them(text: str, value: object) -> None:
    assert typed(text) == value
    assert type(typed(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "value"), [("16GB", 16 * 10**9), ("1.5 TB", 15 * 10**11), ("500M", 5 * 10**8), (7, 7)]
)
def test_sizes(text: object, value: int) -> None:
    assert bytes_of(text) == value
