"""Outputs in the hub's layout, as a browser opens them; exported once a process. Import the fixture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from convert.bundle import Bundle
from tests import processes, tiny
from tests.onnx.graphs import export
from validate import transformers_js
from validate.errors import Unsupported

FARA = Path(__file__).parents[2] / "recipes" / "models" / "fara-nano"
DTYPES = {"fp32": "fp32", "fp16": "fp16", "q8": "int8", "q4": "int4"}
ASKED = "Select the yellow box."
PICTURE = FARA / "heldout" / "000.png"
TARGET = (11, 67, 52, 108)  # of that picture: left, top, right, bottom, as clicks.jsonl has it
HOMES: list[Path] = []
MADE: dict[str, Bundle] = {}  # of each output in it


def lacking() -> str:
    """What to do where node or the package is not there; empty where both are."""
    try:
        transformers_js.node()
        transformers_js.find()
    except Unsupported as error:
        return str(error)
    return ""


needs_node = pytest.mark.skipif(bool(lacking()), reason=lacking())


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of outputs: `fara` with images, in four dtypes; `qwen` likewise, and `llama` in one, of text."""
    if not HOMES:
        home = tmp_path_factory.mktemp("web")
        qwen, llama = tiny.tiny_qwen2(home / "qwen"), tiny.tiny_llama(home / "llama", layers=1)
        for folder, types in ((FARA, tuple(DTYPES.values())), (qwen, tuple(DTYPES.values())), (llama, ("fp32",))):
            name = folder.name.removesuffix("-nano")
            MADE[name] = export(folder, home / "out" / name, layout="hub", precision=types)
        HOMES.append(home / "out")
    return HOMES[0]


def ask_node(models: Path, questions: Sequence[dict[str, Any]]) -> list[Any]:
    """The answers of usual_calls.mjs."""
    library = transformers_js.find().modules / transformers_js.NAME / "dist" / "transformers.node.mjs"
    command = [str(transformers_js.node()), str(Path(__file__).parent / "usual_calls.mjs"), library.as_uri()]
    ended = processes.run(
        [*command, f"{models}/", json.dumps(list(questions))], check=False, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    answers: list[Any] = json.loads(ended.stdout)
    return answers
