"""Llama 2's tokenizer as configs and libraries read it: the file is right, and what libraries disagree on is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.fixtures_gguf import read_gguf
from tests.fixtures_validate import convert_tiny, folder, rewritten, weights
from tests.parity.build import LLAMA, tokenizer_model
from validate import contract, runtimes
from validate.contract import Check
from validate.runtimes import llama_cpp, transformers


def checkpoint(home: Path, files: str, **words: Any) -> Path:
    """A tiny Llama with the words in its tokenizer_config.json, and tokenizer.json, tokenizer.model or both."""
    tiny.tiny_llama(home, layers=1)
    path = home / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"tokenizer_class": "LlamaTokenizer", **words}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    if "model" in files:
        (home / "tokenizer.model").write_bytes(tokenizer_model(json.loads(LLAMA.tokenizer())))
    if "json" not in files:
        (home / "tokenizer.json").unlink()
    return home


def checks_of(source: Path, file: Path) -> dict[str, Check]:
    with (
        runtimes.open_session(transformers.RUNTIME, source) as reference,
        runtimes.open_session(llama_cpp.RUNTIME, file) as candidate,
    ):
        return {check.name: check for check in contract.check_contract(reference, candidate)}


@pytest.mark.parametrize("files", ["json", "json, model", "model"])
@pytest.mark.parametrize(
    "words",
    [
        {},
        {"legacy": True},
        {"legacy": False},
        {"add_prefix_space": True},
        {"add_prefix_space": False},
        {"legacy": False, "add_prefix_space": False},
        {"add_bos_token": False},
        {"tokenizer_class": "LlamaTokenizerFast"},
    ],
    ids=str,
)
def test_the_file_is_right_whatever_the_config_says(files: str, words: dict[str, Any], tmp_path: Path) -> None:
    bundles = convert_tiny(checkpoint, tmp_path, ["F32"], files=files, **words)
    file = weights(bundles, "F32").path
    fields, _ = read_gguf(file)
    assert fields["tokenizer.ggml.add_space_prefix"] is (words.get("add_prefix_space") is not False)
    for check in checks_of(folder(bundles), file).values():
        assert not check.metric or check.score == 1.0 or check.name == "templates_runtime", check


def test_libraries_that_disagree_are_named_once_with_an_example(tmp_path: Path) -> None:
    bundles = convert_tiny(checkpoint, tmp_path, ["F32"], files="json")
    check = checks_of(folder(bundles), weights(bundles, "F32").path)["libraries"]
    assert check.total > check.equal == 0
    assert not check.metric
    assert "' '" in check.note


def test_a_space_that_the_config_takes_away_and_the_file_adds_is_a_failure(tmp_path: Path) -> None:
    bundles = convert_tiny(checkpoint, tmp_path, ["F32"], files="json, model", add_prefix_space=False)
    change = {"tokenizer.ggml.add_space_prefix": True}
    wrong = rewritten(weights(bundles, "F32").path, tmp_path / "wrong.gguf", change)
    assert checks_of(folder(bundles), wrong)["tokens"].score < 0.9
