"""What the documentation says can be done: every command parses, every recipe loads, every link leads somewhere."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from ruamel.yaml import YAML

from convert import registry
from convert.cli import main
from convert.options import words_of
from convert.recipe import Recipe, load_recipe
from tests import processes, readme, tiny

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md"))])
GENERATED = ("reference/commands.md", "reference/recipe.md", "reference/report.md", "reference/python.md")
OF_THE_SITE = {"architecture.md": "ARCHITECTURE.md", "changelog.md": "CHANGELOG.md"}
FENCE = re.compile(
    r"^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")
REDIRECTED = re.compile(r"\s+>.*$")
MENTIONED = "(in a sentence)"
FRAGMENT = "part of a recipe"
FILES_OF_OURS = re.compile(r"`((?:convert|quantize|validate|tests|recipes|docs)/[\w./-]*)`")


@dataclass(frozen=True)
class Block:
    """A block of code of a page."""

    page: str
    language: str
    title: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.title or self.text.splitlines()[0]}"


def blocks(*languages: str) -> list[Block]:
    return [
        Block(str(page.relative_to(ROOT)), match["language"], match["title"] or "", match["text"])
        for page in PAGES
        for match in FENCE.finditer(page.read_text(encoding="utf-8"))
        if match["language"] in languages
    ]


def commands() -> Iterator[tuple[str, str]]:
    """Page, and a command line of ours: in a block of shell or between backticks."""
    for block in blocks("sh", "bash", "yaml"):
        for line in re.sub(r"\\\n", " ", re.sub(r"\$\([^)]*\)", "X", block.text)).splitlines():
            for part in re.split(r"&&|\|\||;|\|", line.partition(" #")[0]):
                words = re.sub(r"^\s*(?:- |run: |if |! |time )*", "", part).strip()
                if words.startswith("convert "):
                    yield block.page, REDIRECTED.sub("", words)
    for page in PAGES:
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        for line in re.findall(r"`(convert [a-z-][^`]*)`", text):
            yield str(page.relative_to(ROOT)), f"{REDIRECTED.sub('', line)} {MENTIONED}"


def parse(line: str, *, mentioned: bool = False) -> None:
    """Raises click's UsageError for a line that our command would refuse; `[a|b]` and `…` are what is left out."""
    words = shlex.split(re.sub(r"\[[^]]*\]|…|\.\.\.", "", line))[1:]
    if words[0].startswith("-"):
        assert words[0] in ("--help", "--version", "-h")
        return
    group = click.Context(main, info_name="convert", **main.context_settings)
    command = main.get_command(group, words[0])
    assert command is not None, f"there is no `convert {words[0]}`"
    if len(words) == 1 or "--help" in words:  # the command's name
        return
    try:
        command.make_context(words[0], words[1:], parent=group)
    except (click.MissingParameter, click.BadOptionUsage) as error:
        if not (
            mentioned and ("Missing" in error.format_message() or "requires an argument" in error.format_message())
        ):
            raise  # `convert plan -v` and `convert run --jobs` in a sentence name something, and run nothing


def test_there_is_something_to_check() -> None:
    lines = [line for _, line in commands()]
    assert len(lines) > 40
    assert any(line.startswith("convert init") for line in lines)
    assert len(blocks("yaml")) > 10


@pytest.mark.parametrize(("page", "line"), sorted(set(commands())), ids=str)
def test_a_command_of_a_page_parses(page: str, line: str) -> None:
    parse(line.removesuffix(MENTIONED), mentioned=line.endswith(MENTIONED))


def test_a_command_that_is_none_is_seen() -> None:
    with pytest.raises(click.UsageError):
        parse("convert run recipe.yaml --no-such-option")
    with pytest.raises(AssertionError):
        parse("convert rum recipe.yaml")


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_a_recipe_of_a_page_loads(block: Block, tmp_path: Path) -> None:
    if block.title.startswith(".github/"):
        assert set(YAML(typ="safe").load(block.text)) >= {"name", "jobs"}
    elif block.title == FRAGMENT:
        recipe(whole(block.text), tmp_path)
    elif "use: toy" in block.text:
        return  # of a package that test_the_toy_package runs
    else:
        assert recipe(block.text, tmp_path).stages


def whole(fragment: str) -> str:
    """A recipe around a part of one: stages indented as they are in a recipe, or a `validate:` section."""
    start = "name: part\nmodel: {path: model}\nstages:\n"
    return start + (fragment if fragment.startswith("  ") else f"  gguf: {{use: gguf, types: [F16]}}\n{fragment}")


def recipe(text: str, folder: Path) -> Recipe:
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return load_recipe(folder / "recipe.yaml")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if any(there == DOCS / name for name in GENERATED):
            continue  # mkdocs looks at these, with their anchors
        assert there.exists(), f"{page.name} links to {target}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{page.name} links to {target}, where no heading is called so"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_is_named_is_there(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    named = [name for name in FILES_OF_OURS.findall(text) if "NAME" not in name]
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_readme_has_the_formats_as_the_registry_says() -> None:
    told = "python -m tests.readme --write puts the table there"
    assert readme.in_readme(readme.README.read_text(encoding="utf-8")) == readme.table(), told
    for format_ in registry.formats():
        if all(reference.startswith("convert.") for reference in format_.stages.values()):
            assert readme.table().count(f"\n| {format_.title} |") == 1


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    there = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert set(listed) == there | set(GENERATED) | set(OF_THE_SITE)
    assert len(listed) == len(set(listed))


def test_the_reference_says_all_there_is() -> None:
    from docs.hooks import commands, python_api, schemas

    group = click.Context(main, info_name="convert", **main.context_settings)
    page = commands.page()
    for name in main.list_commands(group):
        command = main.get_command(group, name)
        assert command is not None
        assert f"## convert {name}\n" in page
        for option in command.params:
            assert isinstance(option, click.Argument) or option.opts[-1] in page
    recipes, reports = schemas.recipe_page(), schemas.report_page()
    from convert.validation.read_report import json_schema
    from validate.metrics import DEFINITIONS

    for stage in registry.names():
        assert all(f"| `{option}` |" in recipes for option in words_of(registry.load(stage).Options))
    assert all(f"## {title}\n" in reports for title in json_schema()["$defs"])
    assert all(f"| `{name}` |" in reports for name in DEFINITIONS)
    api = python_api.page()
    assert all(f"### {name}\n" in api for name in importlib.import_module("convert").__all__)


def test_the_site_builds_strictly_and_asks_nothing_of_a_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
    site = tmp_path / "site"
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # an advertisement
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    done = processes.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|iframe|link|source)\b[^>]*?\b(?:src|href)=\"?(https?:[^\s\">]+)", page.read_text()
        )
        assert loaded == [], f"{page.name} loads {loaded}"


# ---- what pages tell to do


def test_bash_completes_the_command_as_the_page_says(tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    script = tmp_path / "convert"
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom convert.cli import main\nsys.exit(main())\n")
    script.chmod(0o755)
    told = next(
        line for line in (DOCS / "how-to/shell-completion.md").read_text().splitlines() if "bash_source" in line
    )
    asks = (
        f"{told}\ncomplete -p convert\nCOMP_WORDS=(convert ru)\nCOMP_CWORD=1\n_convert_completion convert ru convert\n"
    )
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = processes.run(
        ["bash", "--norc", "-c", f"{asks}echo ${{COMPREPLY[@]}}"], env=env, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "run", done.stderr


def test_the_family_of_the_page_is_one() -> None:
    """The example of docs/extend/add-a-family.md is the file that is there, and so is its tiny checkpoint."""
    family, case, *_ = (block.text for block in blocks("python") if block.page.endswith("add-a-family.md"))
    assert family == (ROOT / "convert/architectures/seed_oss.py").read_text(encoding="utf-8")
    assert case == (ROOT / "tests/parity/checkpoints/seed_oss.py").read_text(encoding="utf-8")


@pytest.fixture
def toy(tmp_path: Path) -> dict[str, str]:
    """The package of docs/how-to/plug-in-a-format.md as pip would have installed it; the environment that has it."""
    home = tmp_path / "site"
    files = {
        block.title: block.text for block in blocks("python", "toml") if block.page.endswith("plug-in-a-format.md")
    }
    points = re.findall(r'^\[project\.entry-points\."([\w.]+)"\]\n(.*)$', files.pop("pyproject.toml"), re.MULTILINE)
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    about = home / "toy_format-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-format\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "".join(f"[{group}]\n{line.replace(chr(34), '')}\n" for group, line in points)
    )
    tiny.tiny_llama(tmp_path / "CHECKPOINT")
    (recipe_block,) = (block for block in blocks("yaml") if "use: toy" in block.text)
    (tmp_path / "toy.yaml").write_text(recipe_block.text)
    return {**os.environ, "PYTHONPATH": f"{home}:{ROOT}"}


def test_the_toy_package_is_validated(toy: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "convert", "run", "toy.yaml"]
    ran = processes.run(command, cwd=tmp_path, env=toy, capture_output=True, text=True, check=False)
    assert "toy/F16" in ran.stdout
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = (tmp_path / "out/toy/report.json").read_text()
    assert '"status": "passed"' in report
    assert "toy 1.0" in report


def test_the_toy_package_goes_through_everything(toy: dict[str, str], tmp_path: Path) -> None:
    def convert(*words: str) -> Any:
        command = [sys.executable, "-m", "convert", *words]
        return processes.run(command, cwd=tmp_path, env=toy, capture_output=True, text=True, check=False)

    built = tmp_path / "built.yaml"
    built.write_text((tmp_path / "toy.yaml").read_text().partition("validate:")[0])
    planned = convert("plan", "toy.yaml")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    ran = convert("run", "built.yaml")
    assert "CHECKPOINT.toy" in ran.stdout
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Toy, " in convert("inspect", "out/toy/toy/CHECKPOINT.toy").stdout
    assert "use: toy" in convert("stages").stdout
    assert "  toy          F16" in convert("inspect", "CHECKPOINT", "--quick").stdout
    assert '"const": "toy"' in convert("schema").stdout
    convert("init", "CHECKPOINT", "--out", "new.yaml")
    assert "    use: toy" in (tmp_path / "new.yaml").read_text()
