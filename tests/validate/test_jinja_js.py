"""transformers.js' template engine: what it is asked, what becomes of its answers; the real one where node has it."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from validate import jinja_js
from validate.errors import RuntimeFailure, Unsupported
from validate.jinja_js import JinjaJs
from validate.measures.jinja_js import check_templates
from validate.runtimes import transformers
from validate.runtimes._folder import CheckpointFolder
from validate.samples import CONVERSATIONS

HERE = os.environ.get("JINJA_JS", "")  # a folder with node_modules/@huggingface/jinja


def package(folder: Path, version: str = "0.5.0") -> Path:
    path = folder / jinja_js.PACKAGE
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"version": version}))
    return folder


def node_that(prints: str, folder: Path, monkeypatch: pytest.MonkeyPatch, code: int = 0) -> Path:
    """A program called node, first on the PATH, that keeps what it is asked; the file it keeps it in."""
    node = folder / "bin" / "node"
    node.parent.mkdir()
    (folder / "answer").write_text(prints)
    node.write_text(f"#!/bin/sh\ncat > '{folder}/asked'\ncat '{folder}/answer'\nexit {code}\n")
    node.chmod(node.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{node.parent}{os.pathsep}{os.environ['PATH']}")
    return folder / "asked"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with transformers.RUNTIME.open(tiny.tiny_qwen2(tmp_path_factory.mktemp("m") / "m"), threads=1) as session:
        yield session


def test_it_is_found_by_its_package_and_what_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node_that("", tmp_path, monkeypatch)
    with pytest.raises(Unsupported, match="npm install @huggingface/jinja"):
        jinja_js.find(tmp_path)
    assert jinja_js.find(package(tmp_path)) == JinjaJs(tmp_path, "0.5.0")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unsupported, match=r"no `node` on the PATH"):
        jinja_js.find(tmp_path)


def test_what_it_is_asked_and_what_it_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = node_that(json.dumps([{"text": "a"}, {"refused": "no"}]), tmp_path, monkeypatch)
    tools = next(talk for talk in CONVERSATIONS if talk.tools)
    templates = {"default": "D", "tool_use": "T"}
    found = JinjaJs(tmp_path, "1").render(templates, [CONVERSATIONS[0], tools], {"bos_token": "<s>"})
    assert found[0] == "a"
    assert isinstance(found[1], RuntimeFailure)
    sent = json.loads(asked.read_text())
    assert sent["templates"] == templates
    assert sent["variables"] == {"bos_token": "<s>"}
    assert [talk["template"] for talk in sent["talks"]] == ["default", "tool_use"]
    assert "tools" not in sent["talks"][0]
    assert sent["talks"][1]["tools"] == list(tools.tools or ())


def test_a_node_that_ends_badly_is_not_checked_and_says_why(
    reference: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node_that("", tmp_path, monkeypatch, code=3)
    check = check_templates(reference, reference, JinjaJs(tmp_path, "1"))
    assert check.total == 0
    assert "exit code 3" in check.note


def test_equal_texts_are_equal_and_another_is_shown_where_it_parts(
    reference: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [reference.render(t.messages, t.tools, t.generation_prompt) for t in CONVERSATIONS]
    node_that(json.dumps([{"text": text} for text in texts]), tmp_path, monkeypatch)
    good = check_templates(reference, reference, JinjaJs(tmp_path, "1"))
    assert (good.total, good.score) == (len(CONVERSATIONS), 1.0)
    texts[0] = texts[0].replace("assistant", "model")
    (tmp_path / "answer").write_text(json.dumps([{"text": text} for text in texts]))
    bad = check_templates(reference, reference, JinjaJs(tmp_path, "1"))
    assert [d.what for d in bad.differences] == [CONVERSATIONS[0].name]
    assert "model" in bad.differences[0].candidate


@pytest.mark.skipif(not (HERE and shutil.which("node")), reason="JINJA_JS names no folder with @huggingface/jinja")
def test_the_real_engine_renders_as_transformers_does(reference: Any, tmp_path: Path) -> None:
    engine = jinja_js.find(Path(HERE))
    check = check_templates(reference, reference, engine)
    assert check.score == 1.0, check.differences
    folder = tmp_path / "m"
    tiny.tiny_qwen2(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["chat_template"] = config["chat_template"].replace("<|im_end|>\n", "<|im_end|>", 1)
    path.write_text(json.dumps(config))
    assert check_templates(reference, CheckpointFolder(folder), engine).score < 0.5
