"""FP8 asks nothing of a library: every family that its roles allow is made, and comes back as the model.

The stage itself loads each folder again and looks: missing and unexpected keys, quantized modules that came back plain
or the other way round, numbers that are not finite. All in one process, which is not this one.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from convert import architectures
from convert.formats.compressed.supports import supports_family
from tests import processes
from tests.fixtures_gptq import ENVIRONMENT, NANO

DENSE = [family.name for family in architectures.families() if supports_family(family).yes]


def make(home: Path) -> None:
    """An FP8 folder of every such family's plain tiny checkpoint; what each says is in said.json."""
    from convert import child
    from convert.bundle import Role
    from convert.formats.compressed.fp8_stage import STAGE
    from convert.progress import Silent
    from tests.fixtures_gptq import _run_here, source_bundle
    from tests.parity.families import cases

    child.run = _run_here
    said = {}
    for name in DENSE:
        (home / name).mkdir()
        inputs = {"source": source_bundle(cases()[name].make(home / name / "Tiny"))}
        try:
            made = STAGE.run(STAGE.Options(threads=1), inputs, home / name, Silent())
            said[name] = sorted(a.path.name for a in made.of(Role.WEIGHTS))
        except Exception as error:
            said[name] = [f"{type(error).__name__}: {error}"]
    (home / "said.json").write_text(json.dumps(said), encoding="utf-8")


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    home = tmp_path_factory.mktemp("fp8")
    program = "import pathlib, sys; from tests.test_fp8_families import make; make(pathlib.Path(sys.argv[1]))"
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(NANO.parents[2])}
    command = [sys.executable, "-c", program, str(home)]
    made = processes.run(command, check=False, capture_output=True, text=True, env=environment, cwd=home)
    assert made.returncode == 0, made.stderr
    found: dict[str, list[str]] = json.loads((home / "said.json").read_text())
    return found


@pytest.mark.parametrize("family", DENSE)
def test_every_dense_family_comes_back_as_the_model(family: str, said: dict[str, list[str]]) -> None:
    assert said[family] == ["model.safetensors"]


def test_most_families_are_dense() -> None:
    assert {"llama", "bloom", "falcon", "llava", "gemma3_vision"} <= set(DENSE)
    assert not {"mixtral", "gpt_oss", "gpt2", "deepseek2"} & set(DENSE)
