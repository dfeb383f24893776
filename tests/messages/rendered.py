"""What the command line really prints: for broken checkpoints, for wrong recipes, and for a model that is sound.

Each is one command, run in this process in a folder of its own. What a machine decides (free space, seconds, installed
versions) is replaced by a word in angle brackets, so that the text is the same everywhere.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from convert.cli import main
from convert.table import report_lines
from tests.hostile import BROKEN, edit_config
from tests.messages.wrong_recipes import WRONG
from tests.tiny import tiny_llama, tiny_qwen2_5_vl
from tests.validate.sample_report import sample_report
from validate.report import to_markdown
from validate.report.changes import compare
from validate.report.changes_words import to_text

NANO = Path(__file__).parents[2] / "recipes/models/fara-nano"
PLAN = "name: small\nmodel: {path: Model}\nstages:\n"
COMMANDS = ("plan", "run", "validate", "compare", "inspect", "init", "stages", "families", "new-family", "schema")
SAYS_MACHINE = (
    (r"[\d.]+ [kMGT]?B are free on that disk", "<free> are free on that disk"),
    (r"done in [\d.]+ s", "done in <seconds>"),
    (r"this machine has [\d.]+ [kMGT]?B", "this machine has <memory>"),
    (r"process \d+", "process <pid>"),
)


def sections(folder: Path) -> dict[str, Callable[[], Iterator[tuple[str, str]]]]:
    """Name of a snapshot -> what makes its parts, each a heading and a text. `folder` is empty, and scratch."""
    return {
        "rendered.help": helps,
        "rendered.broken-checkpoints": lambda: broken_checkpoints(folder),
        "rendered.wrong-recipes": lambda: wrong_recipes(folder),
        "rendered.small-model": lambda: small_model(folder),
        "rendered.report": reports,
    }


def text(parts: Iterator[tuple[str, str]]) -> str:
    """The parts as one text."""
    return "\n".join(f"## {heading}\n{said.rstrip()}\n" for heading, said in parts)


def complaints(folder: Path) -> str:
    """What a plan of the folder's recipe says beside its table, which is the same for every recipe that cannot run."""
    whole = said(folder, "plan", "recipe.yaml").splitlines()
    return "\n".join(line for line in whole if line.startswith(("error: ", "note: ", "warning: ", "(exit code")))


def said(folder: Path, *words: str) -> str:
    """The command and all that it prints, errors included."""
    with chdir(folder), tempfile.TemporaryDirectory() as cache:  # what earlier runs took is not known
        env = {"COLUMNS": "120", "CONVERT_CACHE_HOME": cache}
        result = CliRunner().invoke(main, words, prog_name="convert", env=env)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    lines = [line.rstrip() for line in result.output.splitlines() if not line.endswith("B/s")]  # how far it is by now
    printed = "\n".join(lines).replace(str(folder.resolve()), "<here>").replace(str(folder), "<here>")
    for pattern, word in SAYS_MACHINE:
        printed = re.sub(pattern, word, printed)
    return f"$ convert {' '.join(words)}\n{printed}\n(exit code {result.exit_code})"


def helps() -> Iterator[tuple[str, str]]:
    """The help of every command, and what lists what there is."""
    yield "convert --help", said(Path.cwd(), "--help")
    for command in COMMANDS:
        yield f"convert {command} --help", said(Path.cwd(), command, "--help")
    yield "convert families", said(Path.cwd(), "families")
    yield "convert stages", said(Path.cwd(), "stages")


def broken_checkpoints(folder: Path) -> Iterator[tuple[str, str]]:
    """A recipe with one GGUF file, of a checkpoint that is broken in every way we know."""
    whole = tiny_llama(folder / "whole")
    for case in sorted(BROKEN):
        home = folder / case
        shutil.copytree(whole, home / "Model")
        BROKEN[case](home / "Model")
        (home / "recipe.yaml").write_text(PLAN + "  gguf: {use: gguf, types: [Q8_0]}\n")
        yield case, complaints(home)
    for case, words in FOREIGN.items():
        home = folder / f"config-{case}"
        shutil.copytree(whole, home / "Model")
        edit_config(home / "Model", **words)
        (home / "recipe.yaml").write_text(PLAN + "  gguf: {use: gguf, types: [Q8_0]}\n")
        yield f"config.json: {json.dumps(words)}", complaints(home)


FOREIGN: dict[str, dict[str, Any]] = {
    "class": {"architectures": ["LlamaWithEyesForCausalLM"], "model_type": "llama_eyes"},
    "mamba": {"architectures": ["MambaForCausalLM"], "model_type": "mamba"},
    "none": {"architectures": None},
    "rope": {"rope_scaling": {"rope_type": "longer", "factor": 2.0}},
    "heads": {"num_attention_heads": 3},
    "quantized": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    "act": {"hidden_act": "relu"},
}
"""Words of config.json that this project cannot serve."""


def wrong_recipes(folder: Path) -> Iterator[tuple[str, str]]:
    """Recipes with a mistake, each with what `convert plan` says of it."""
    text_model, vision_model = tiny_llama(folder / "text-model"), tiny_qwen2_5_vl(folder / "vision-model")
    for case, recipe in WRONG.items():
        home = folder / f"recipe-{case}".replace(" ", "-").replace(":", "")
        home.mkdir()
        (home / "Model").symlink_to(vision_model if "clicks" in recipe else text_model)
        (home / "notes.txt").write_text("A few words that are too short to measure anything on.\n")
        (home / "recipe.yaml").write_text(recipe)
        yield case, f"{recipe.rstrip()}\n\n{complaints(home)}"


def reports() -> Iterator[tuple[str, str]]:
    """Of a made-up report: the table that ends a run, report.md, and what it is compared to."""
    before: Any = sample_report()
    after: Any = sample_report()
    for output in after["outputs"][:4]:
        output["metrics"]["kl_mean"] *= 1.5
    yield "the table of a run", "\n".join(line.rstrip() for line in report_lines(before, colour=False))
    yield "report.md", to_markdown(before)
    yield "convert compare", to_text(compare(before, after))


def small_model(folder: Path) -> Iterator[tuple[str, str]]:
    """Plan, run and inspection of a model that is as it should be."""
    home = folder / "small"
    home.mkdir()
    (home / "Model").symlink_to(NANO)
    recipe = PLAN + "  gguf: {use: gguf, types: [Q8_0, Q4_K_M]}\n"
    (home / "recipe.yaml").write_text(recipe)
    yield "a recipe", recipe
    yield "plan", said(home, "plan", "recipe.yaml", "-v")
    yield "run", said(home, "run", "recipe.yaml", "--jobs", "1")
    yield "run again", said(home, "run", "recipe.yaml", "--jobs", "1")
    (home / "recipe.yaml").write_text(recipe.replace("Q8_0", "Q6_K"))
    yield "plan after a change of types", said(home, "plan", "recipe.yaml")
    yield "validate without `validate:`", said(home, "validate", "recipe.yaml")
    yield "inspect a file", said(home, "inspect", "out/small/gguf/Model-Q4_K_M.gguf")
    yield "inspect a checkpoint", said(home, "inspect", "Model", "--quick")
    yield "inspect what is not there", said(home, "inspect", "Modell")
    yield "inspect what is no model", said(home, "inspect", "recipe.yaml")
    yield "init over a file that is there", said(home, "init", "Model", "--out", "recipe.yaml")
    yield "force a stage that is not there", said(home, "run", "recipe.yaml", "--force", "ggfu")
    yield "an executor that is not there", said(home, "run", "recipe.yaml", "--executor", "rai")
    yield "jobs", said(home, "run", "recipe.yaml", "--jobs", "many")
    yield "compare what is no report", said(home, "compare", "recipe.yaml", "recipe.yaml")
