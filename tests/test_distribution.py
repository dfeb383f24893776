"""What the project is called, which release it is, and what it can do with nothing but its own dependencies."""

from __future__ import annotations

import ast
import contextlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from ruamel.yaml import YAML

from convert import distribution
from convert.cli import main
from tests import processes
from validate import runtimes

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINS = {
    canonicalize_name(line.partition("==")[0]): line.partition("==")[2]
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if "==" in line and not line.startswith("#")
}
FARA_NANO = ROOT / "recipes" / "models" / "fara-nano"


# ---- the name


def test_the_name_in_the_code_is_the_one_in_pyproject() -> None:
    assert PROJECT["name"] == distribution.NAME


def test_the_command_is_there_under_both_names() -> None:
    assert PROJECT["scripts"] == {"convert": "convert.cli:main", PROJECT["name"]: "convert.cli:main"}


def test_the_command_that_installs_names_every_extra_once() -> None:
    command = "pip install 'convert-quantize-validate[genai,onnx]'"
    assert distribution.install_command("onnx", "genai", "onnx") == command


def python_files() -> list[Path]:
    return [path for package in ("convert", "quantize", "validate") for path in sorted((ROOT / package).rglob("*.py"))]


def test_every_extra_that_a_message_names_is_one_of_ours() -> None:
    named = set()
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "install_command":
                named |= {a.value for a in node.args if isinstance(a, ast.Constant)}
    assert {"onnx", "validate", "pickle"} <= named <= set(EXTRAS)


def test_no_message_spells_the_command_out() -> None:
    """A literal would go on naming what is somebody else's package after a change of name."""
    spelled = re.compile(r"pip install '?[\w-]+\[")
    found = [path for path in python_files() if spelled.search(path.read_text()) and path.name != "distribution.py"]
    assert found == []


# ---- the version


def test_the_release_is_the_one_that_an_untagged_clone_has() -> None:
    assert PYPROJECT["tool"]["setuptools_scm"]["fallback_version"] == distribution.RELEASE


def test_the_release_to_cite_is_this_one() -> None:
    cited = YAML(typ="safe").load(ROOT / "CITATION.cff")
    assert (cited["version"], cited["title"]) == (distribution.RELEASE, distribution.NAME)


def test_what_is_not_installed_has_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert distribution.version() == f"{distribution.RELEASE}+unknown"


def test_the_version_follows_the_release() -> None:
    """Keys and graphs say the release: a version of another one would mean that a tag was set and it was not raised."""
    assert Version(distribution.version()).base_version == distribution.RELEASE


def test_version_tells_the_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes.load("openvino"), "available", lambda: "openvino not installed: do this")
    result = CliRunner().invoke(main, ["--version"], catch_exceptions=False)
    assert result.exit_code == 0
    first, *rest = result.stdout.splitlines()
    assert first.startswith(f"{distribution.NAME} {distribution.RELEASE}")
    told = {line[2:].partition("  ")[0]: line.split("  ", 2)[2].strip() for line in rest}
    assert set(told) == {runtimes.load(name).NAME for name in runtimes.names()}
    assert told["llama.cpp"] == f"xllamacpp {importlib.metadata.version('xllamacpp')}"
    assert told["OpenVINO"] == "openvino not installed: do this"


# ---- what it depends on


def requirements() -> Iterator[Requirement]:
    for line in [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]:
        requirement = Requirement(line)
        if requirement.name != PROJECT["name"]:
            yield requirement


def test_every_dependency_has_a_pin_in_its_range() -> None:
    for requirement in requirements():
        pin = PINS[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), f"constraints.txt has {pin}, pyproject.toml {requirement}"


def test_one_package_has_one_range() -> None:
    ranges: dict[str, set[str]] = {}
    for requirement in requirements():
        ranges.setdefault(canonicalize_name(requirement.name), set()).add(str(requirement.specifier))
    assert [name for name, said in ranges.items() if len(said) > 1] == []


def closure(lines: list[str]) -> set[str]:
    """The distributions that installing these requirements installs, those they require in turn included."""
    found: set[str] = set()
    waiting = [Requirement(line) for line in lines]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.add(name)
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # uv, where it lies elsewhere
                waiting += map(Requirement, importlib.metadata.requires(name) or [])
    return found


def test_constraints_pin_what_packages_require_in_turn() -> None:
    assert closure([str(r) for r in requirements()]) <= set(PINS)


# ---- how it is installed


@pytest.fixture(scope="module")
def uv() -> ModuleType:
    """The script .ci/uv, as a module."""
    loader = SourceFileLoader("ci_uv", str(ROOT / ".ci" / "uv"))
    module = ModuleType(loader.name)
    loader.exec_module(module)
    return module


def test_uv_looks_where_pip_looks(uv: ModuleType) -> None:
    listed = (
        ":env:.find-links='/wheels /more'\nglobal.find-links='/other'\nglobal.cert='/ca.crt'\n"
        "install.index-url='https://packages.example/simple'\nglobal.index-url='https://old.example/simple'\n"
        "global.extra-index-url='file:///one/simple file:///two/simple'\ndownload.timeout='3'\nglobal.no-color='true'\n"
    )
    assert uv.uv_environment(uv.pip_settings(listed)) == {
        "UV_DEFAULT_INDEX": "https://packages.example/simple",
        "UV_INDEX": "file:///one/simple file:///two/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/wheels,/more",
        "SSL_CERT_FILE": "/ca.crt",
    }
    assert uv.uv_environment(uv.pip_settings("")) == {}


def commands(uv: ModuleType, monkeypatch: pytest.MonkeyPatch, *, found: str | None, codes: dict[str, int]) -> list[str]:
    """The programs that .ci/uv starts; `codes` are their exit statuses, 0 where not named."""
    started: list[str] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        words = " ".join(command).replace(sys.executable, "python")
        started.append(words)
        code = next((code for start, code in codes.items() if words.startswith(start)), 0)
        return subprocess.CompletedProcess(command, code, stdout="")

    monkeypatch.setattr(uv.shutil, "which", lambda name: found)
    monkeypatch.setattr(uv.subprocess, "run", run)
    return started


def test_packages_are_installed_by_uv(uv: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    started = commands(uv, monkeypatch, found="/bin/uv", codes={})
    assert uv.main(["pip", "install", "click"]) == 0
    assert started == ["python -m pip config list", "/bin/uv pip install click --quiet --python python"]


def test_without_uv_pip_installs(uv: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    started = commands(uv, monkeypatch, found=None, codes={})
    assert uv.main(["pip", "install", "click"]) == 0
    assert started == [
        "python -m pip install -c constraints.txt uv --quiet --disable-pip-version-check",
        "python -m pip install click --quiet --disable-pip-version-check",
    ]


def test_what_uv_cannot_install_pip_tries(uv: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    started = commands(uv, monkeypatch, found="/bin/uv", codes={"/bin/uv": 2, "python -m pip install": 1})
    assert uv.main(["pip", "install", "click"]) == 1
    assert started[-1] == "python -m pip install click --quiet --disable-pip-version-check"


def test_what_only_uv_can_do_fails_without_it(
    uv: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = commands(uv, monkeypatch, found=None, codes={})
    assert uv.main(["pip", "compile", "pyproject.toml"]) == 1
    assert len(started) == 1
    assert "needs uv" in capsys.readouterr().err


# ---- without extras


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH that holds what `pip install .` installs and nothing else, as links."""
    folder = tmp_path_factory.mktemp("site")
    for name in closure(PROJECT["dependencies"]):
        installed = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in installed.files or () if file.parts[0] not in ("..", "__pycache__")}:
            (folder / top).symlink_to(str(installed.locate_file(top)))
    return folder


def convert(bare: Path, place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`convert WORDS` in a Python that finds no package beside those in `bare`: -S leaves site-packages out."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(bare)]), "COLUMNS": "120"}
    command = [sys.executable, "-S", "-m", "convert", *words]
    return processes.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_nothing_of_the_extras_is_in_the_bare_python(bare: Path) -> None:
    names = ["torch", "transformers", "onnx", "xllamacpp", "gguf", "tokenizers", "PIL", "gptqmodel"]
    code = f"import importlib.util as u, numba, pydantic; print([n for n in {names} if u.find_spec(n)])"
    environment = {**os.environ, "PYTHONPATH": str(bare)}
    done = processes.run(
        [sys.executable, "-S", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_gguf_files_are_made_without_extras(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        f"name: bare\nmodel: {{path: {FARA_NANO}}}\nstages:\n  files: {{use: gguf, types: [F16, Q8_0]}}\n"
    )
    planned = convert(bare, tmp_path, "plan", "-v", "r.yaml")
    assert planned.returncode == 0, planned.stderr
    ran = convert(bare, tmp_path, "run", "r.yaml")
    assert ran.returncode == 0, ran.stderr
    unproven = "was not proven: xllamacpp is not installed; pip install 'convert-quantize-validate[validate]'"
    assert unproven in ran.stderr + ran.stdout
    files = sorted(path.name for path in (tmp_path / "out/bare/files").glob("*.gguf"))
    assert files == ["fara-nano-F16.gguf", "fara-nano-Q8_0.gguf", "mmproj-fara-nano-F16.gguf"]
    told = convert(bare, tmp_path, "inspect", f"out/bare/files/{files[1]}")
    assert told.returncode == 0, told.stderr
    assert "Q8_0" in told.stdout


def test_a_recipe_that_needs_extras_names_each_with_its_command(bare: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes", ignore=shutil.ignore_patterns("*.py"))
    planned = convert(bare, tmp_path, "plan", "recipes/demo.yaml")
    assert planned.returncode == 2
    assert "Traceback" not in planned.stderr
    named = {
        extra
        for extras in re.findall(r"pip install '[\w-]+\[([\w,]+)\]'", planned.stderr)
        for extra in extras.split(",")
    }
    assert {"gptq", "onnx", "validate"} <= named <= set(EXTRAS)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--version"], 0, "xllamacpp is not installed: pip install 'convert-quantize-validate[validate]'"),
        (["inspect", str(FARA_NANO)], 0, "pip install 'convert-quantize-validate[onnx]'"),
        (["inspect", str(FARA_NANO / "model.safetensors")], 0, "5,796,128 parameters"),
        (["inspect", "graph.onnx"], 1, "needs onnx to be read; pip install 'convert-quantize-validate[onnx]'"),
        (["stages"], 0, "use: gguf"),
        (["schema"], 0, "convert recipe"),
        (["schema", "report"], 0, "convert report"),
        (["compare", "one", "other"], 2, "one: cannot be read"),
        (
            ["validate", "--candidate", "graph.onnx", "--reference", str(FARA_NANO)],
            2,
            "pip install 'convert-quantize-validate[validate]'",
        ),
    ],
    ids=lambda value: "-".join(Path(word).name for word in value) if isinstance(value, list) else "",
)
def test_a_command_works_without_extras_or_names_the_one_it_needs(
    bare: Path, tmp_path: Path, words: list[str], code: int, said: str
) -> None:
    (tmp_path / "graph.onnx").write_bytes(b"\x08\x0a")
    done = convert(bare, tmp_path, *words)
    assert "Traceback" not in done.stderr
    assert said in done.stdout + done.stderr
    assert done.returncode == code, done.stderr
