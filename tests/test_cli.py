"""The command line: exit codes, what is printed where, and that help costs nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from convert.cli import main
from tests import fake_stages, processes

RECIPE = "name: demo\nmodel: {path: model.txt}\nstages:\n  one: {use: upper}\nvalidate: {limit: 100}\n"


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("CONVERT_JOBS", "1")  # a process of its own would know no fakes
    with fake_stages.installed(monkeypatch) as fakes:
        yield fakes


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "model.txt").write_text("hello")
    return tmp_path


def convert(*words: str) -> Result:
    return CliRunner().invoke(main, words, catch_exceptions=False)


def test_a_run_prints_its_steps_and_a_table(place: Path) -> None:
    result = convert("run", "r.yaml")
    assert result.exit_code == 0
    assert "one: not built yet\n" in result.stdout
    assert "upper.txt" in result.stdout
    assert "passed" in result.stdout
    assert result.stdout.endswith("\n1 passed\nreport: out/demo/report.md\n")
    assert "\x1b" not in result.stdout
    again = convert("run", "r.yaml")
    assert again.exit_code == 0
    assert "nothing to do: every step is up to date" in again.stdout


def test_quiet_prints_nothing(place: Path) -> None:
    result = convert("run", "r.yaml", "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_json_lines(place: Path) -> None:
    lines = [json.loads(line) for line in convert("run", "r.yaml", "--json").stdout.splitlines()]
    (planned,) = [line for line in lines if line["event"] == "plan"]
    assert [s["run"] for s in planned["steps"]] == [True, True, True]
    assert lines[-1]["event"] == "finished"
    assert lines[-1]["exit_code"] == 0
    assert lines[-1]["outputs"][0]["status"] == "passed"


@pytest.mark.parametrize(
    ("recipe", "model", "code", "message"),
    [
        (RECIPE, "fail", 1, "error: stage 'one': RuntimeError: the text says so; the details are in "),
        (RECIPE.replace("upper", "uper"), "hello", 2, "`use: uper` is not a stage; did you mean 'upper'?"),
        (RECIPE.replace("100", "3"), "hello", 3, ""),
        (RECIPE, "stop", 130, "stopped; finished stages are kept"),
        (RECIPE.replace("model.txt", "none.txt"), "hello", 2, "is not there, wanted a file; check the path"),
    ],
)
def test_exit_codes(place: Path, recipe: str, model: str, code: int, message: str) -> None:
    (place / "r.yaml").write_text(recipe)
    (place / "model.txt").write_text(model)
    result = convert("run", "r.yaml")
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_a_failure_of_an_earlier_run_says_how_to_measure_again(place: Path) -> None:
    (place / "r.yaml").write_text(RECIPE.replace("100", "3"))
    hint = "measured by an earlier run; `--force validate` measures again"
    assert hint not in convert("run", "r.yaml").stdout
    again = convert("run", "r.yaml")
    assert again.exit_code == 3
    assert hint in again.stdout


def test_an_operating_systems_no_is_one_message(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise PermissionError(13, "Permission denied", "out/demo/report.json")

    monkeypatch.setattr(sys.modules["convert.run"], "publish_report", refuse)
    result = convert("run", "r.yaml")
    assert (result.exit_code, result.stderr) == (1, "error: out/demo/report.json: Permission denied\n")


@pytest.mark.parametrize("words", [("run", "--json"), ("run",), ("plan",), ("inspect", "-v")])
def test_a_reader_that_goes_away_is_no_error(place: Path, words: tuple[str, ...]) -> None:
    """`convert run … | head -1`: stop at the next line, blame nobody."""
    from safetensors.numpy import save_file

    save_file({f"tensor{i}": np.zeros(1, np.float32) for i in range(5000)}, place / "m.safetensors")
    code = (
        "import pytest, sys\nfrom convert.cli import main\nfrom tests import fake_stages\n"
        "with pytest.MonkeyPatch.context() as patch, fake_stages.installed(patch):\n    main(sys.argv[1:])\n"
    )
    file = "m.safetensors" if words[0] == "inspect" else "r.yaml"
    read, write = os.pipe()
    os.close(read)
    done = processes.run(
        [sys.executable, "-c", code, *words, file],
        check=False,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")
    assert not (place / "out/demo/validate").exists()


@contextlib.contextmanager
def handlers(start: signal.Handlers) -> Iterator[None]:
    """SIGTERM and SIGHUP are handled so; what handled them does so again afterwards."""
    before = {which: signal.signal(which, start) for which in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_being_told_to_end_is_like_ctrl_c(place: Path, fakes: Any, name: str) -> None:
    def killed(*arguments: Any) -> None:
        os.kill(os.getpid(), getattr(signal, name))

    fakes["upper"].run = killed
    with handlers(signal.SIG_DFL):
        result = convert("run", "r.yaml")
    assert result.exit_code == 130
    assert sorted(p.name for p in (place / "out/demo").iterdir()) == [".convert", "logs", "source"]


def test_what_is_ignored_stays_ignored(place: Path, fakes: Any) -> None:
    """`nohup convert run r.yaml &`: the terminal goes, the run does not."""
    run = fakes["upper"].run

    def hung_up(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGHUP)
        return run(*arguments)

    fakes["upper"].run = hung_up
    with handlers(signal.SIG_IGN):
        assert convert("run", "r.yaml").exit_code == 0
    assert (place / "out/demo/one").is_dir()


def test_errors_are_json_too_when_asked(place: Path) -> None:
    result = convert("run", "none.yaml", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["problems"] == [
        "none.yaml: cannot be read: No such file or directory; give the path of a recipe"
    ]


def test_wrong_usage_is_2(place: Path) -> None:
    assert convert("run").exit_code == 2
    assert convert("rum").exit_code == 2


def test_plan_starts_nothing(place: Path) -> None:
    result = convert("plan", "r.yaml")
    assert result.exit_code == 0
    assert "not built yet" in result.stdout
    assert not (place / "out").exists()
    convert("run", "r.yaml", "-q")
    assert "up to date" in convert("plan", "r.yaml").stdout
    planned = json.loads(convert("plan", "r.yaml", "--json").stdout)
    assert [s["run"] for s in planned["steps"]] == [False, False, False]


TWO = RECIPE.replace("stages:\n", "stages:\n  two: {use: upper, suffix: '?'}\n")


def test_validate_measures_again_what_is_built_and_builds_nothing(place: Path, fakes: Any) -> None:
    convert("run", "r.yaml", "-q")
    result = convert("validate", "r.yaml")
    assert result.exit_code == 0
    assert "validate: measured again" in result.stdout
    assert "one: up to date" in result.stdout
    assert (len(fakes["upper"].runs), len(fakes["validate"].runs)) == (1, 2)
    assert "nothing to do" in convert("run", "r.yaml").stdout  # it is the report that a run would make


def test_validate_says_what_is_not_built(place: Path, fakes: Any) -> None:
    convert("run", "r.yaml", "-q")
    (place / "r.yaml").write_text(TWO)
    result = convert("validate", "r.yaml")
    assert result.exit_code == 3
    assert "warning: two: not validated: not built yet\n" in result.stderr
    assert "1 passed, 1 not run" in result.stdout
    assert not (place / "out/demo/two").exists()
    assert len(fakes["upper"].runs) == 1
    again = convert("run", "r.yaml")
    assert (again.exit_code, len(fakes["upper"].runs), len(fakes["validate"].runs)) == (0, 2, 3)
    assert "validate: input 'two' changed" in again.stdout


def test_validate_takes_no_file_of_another_state_of_the_recipe(place: Path, fakes: Any) -> None:
    (place / "r.yaml").write_text(TWO)
    convert("run", "r.yaml", "-q")
    (place / "r.yaml").write_text(TWO.replace("'?'", "'!!'"))
    result = convert("validate", "r.yaml")
    assert result.exit_code == 3
    assert 'two: not validated: option suffix changed: "?" -> "!!"' in result.stderr
    assert (place / "out/demo/two/upper.txt").read_text() == "HELLO?"


def test_validate_where_nothing_is_built_is_one_error(place: Path) -> None:
    result = convert("validate", "r.yaml")
    got = "r.yaml: none of its outputs is built (not built yet), wanted outputs to validate; run it first: convert run"
    assert (result.exit_code, result.stderr) == (2, f"error: {got}\n")
    assert not (place / "out").exists()


def test_validate_gives_a_recipe_without_the_section_the_defaults(place: Path, fakes: Any) -> None:
    (place / "r.yaml").write_text(RECIPE.partition("validate")[0])
    convert("run", "r.yaml", "-q")
    assert convert("validate", "r.yaml").exit_code == 0
    assert fakes["validate"].runs == [["one", "source"]]


def test_validate_judges_files_of_others(place: Path, fakes: Any) -> None:
    fakes["existing"] = fake_stages.existing()
    (place / "their file.gguf").write_text("x" * 7)
    (place / "b").write_text("y")
    words = ("--candidate", "their file.gguf", "--candidate", "b", "--reference", "model.txt", "--name", "judged")
    result = convert("validate", *words)
    assert result.exit_code == 0
    assert "their-file: not built yet" in result.stdout
    assert "2 passed" in result.stdout
    report = json.loads((place / "out/judged/report.json").read_text())
    assert [(o["stage"], o["size_bytes"]) for o in report["outputs"]] == [("their-file", 7), ("b", 1)]
    assert "nothing to do" in convert("validate", *words).stdout
    (place / "b").write_text("z")
    assert "b: b changed" in convert("validate", *words).stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give a recipe, or --candidate FILE and --reference DIR"),
        (("--candidate", "x"), "give a recipe, or --candidate FILE and --reference DIR"),
        (("r.yaml", "--candidate", "x"), "got a recipe and --candidate, wanted one of them"),
        (("r.yaml", "--preset", "good"), "--preset is for --candidate; with a recipe, write it there"),
        (("r.yaml", "--limit", "kl_mean=1"), "--limit is for --candidate"),
        (("--candidate", "x", "--reference", "y", "--limit", "kl_mean"), "wanted METRIC=NUMBER, as kl_mean=0.01"),
    ],
)
def test_validate_usage(place: Path, words: tuple[str, ...], message: str) -> None:
    result = convert("validate", *words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_stages_and_schema(place: Path) -> None:
    listed = convert("stages").stdout
    assert "use: upper\n  The text in capitals." in listed
    assert "suffix               default '!'" in listed
    assert json.loads(convert("schema").stdout)["title"] == "convert recipe"
    assert json.loads(convert("schema", "report").stdout)["title"] == "convert report, version 2"


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (("--help",), set()),
        (("run", "--help"), set()),
        (("validate", "--help"), set()),
        (("--version",), {"numpy"}),  # the files of the runtimes, which are asked for theirs, name its arrays
    ],
)
def test_help_imports_nothing_heavy(words: tuple[str, ...], needed: set[str]) -> None:
    code = (
        "import sys\nfrom convert.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'numpy', 'torch', 'pydantic', 'rich', 'ruamel', 'transformers', 'gguf'}))"
    )
    done = processes.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout.splitlines()[-1].replace("'", '"'))) == needed


@pytest.mark.parametrize(
    ("terminal", "environment", "expected"),
    [
        (True, {"TERM": "xterm"}, True),
        (False, {"TERM": "xterm"}, False),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (True, {"TERM": "xterm", "NO_COLOR": ""}, True),  # as no-color.org has it: present and not empty
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colours_are_for_terminals_that_want_them(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, environment: dict[str, str], expected: bool
) -> None:
    from convert.cli.console import colour

    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert colour() is expected


def test_python_m_convert() -> None:
    done = processes.run([sys.executable, "-m", "convert", "--version"], capture_output=True, text=True, check=True)
    assert "convert-quantize-validate 0.1.0" in done.stdout
