"""`convert new-family`: a draft of a family, of a tiny checkpoint of it, and of a test that fails."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from convert import architectures
from convert.architectures._family import Family
from convert.cli import main
from convert.inspection import draft_text
from convert.inspection.draft import draft
from convert.inspection.draft_text import checkpoint_text, family_text
from convert.json_types import JsonObject
from convert.source.checkpoint import open_checkpoint, shapes_of
from tests import tiny
from tests.hostile import edit_config, edit_header
from tests.parity.families import families

KNOWN = ("seed_oss", "olmo2", "glm4", "qwen3_moe", "stablelm", "phi3", "gemma2", "starcoder2")


def command(*words: object) -> Result:
    return CliRunner().invoke(main, ["new-family", *map(str, words)], catch_exceptions=False)


def other(folder: Path, name: str = "OtherForCausalLM", kind: str = "other", **words: Any) -> Path:
    tiny.tiny_qwen3(folder)
    edit_config(folder, architectures=[name], model_type=kind, **words)
    return folder


def made(text: str) -> Family:
    """The family that a draft declares."""
    scope: dict[str, Any] = {}
    exec(compile(text, "draft", "exec"), scope)
    family: Family = scope["FAMILY"]
    return family


def table(family: Family, config: JsonObject) -> dict[str, tuple[Any, ...]]:
    return {t.source: (t.shape, tuple((o.name, o.shape) for o in t.outputs)) for t in family.text(config).tensors}


@pytest.mark.parametrize("name", KNOWN)
def test_the_draft_of_a_known_family_has_its_table(name: str, tmp_path: Path) -> None:
    """As if it were not known: what is drafted by llama.cpp's names is what the family's file says."""
    folder = families()[name][0].make(tmp_path / "Tiny")
    checkpoint = open_checkpoint(folder)
    served = architectures.find(checkpoint.config).classes[0]
    found = draft(checkpoint.config, shapes_of(checkpoint.tensors), served)
    text = family_text(found)
    wanted = table(architectures.load(name), checkpoint.config)
    assert table(made(text), checkpoint.config) == wanted
    assert found.known
    assert made(text).text(checkpoint.config).architecture == found.graph.name
    assert "# OPEN: " in text


def test_files_are_written_once_and_never_over_others(tmp_path: Path) -> None:
    folder = other(tmp_path / "Tiny")
    result = command(folder, "--out", tmp_path / "tree")
    assert result.exit_code == 0
    paths = [tmp_path / "tree" / part for part in ("convert/architectures", "tests/parity/checkpoints", "tests/parity")]
    written = [paths[0] / "other.py", paths[1] / "other.py", paths[2] / "test_other.py"]
    assert [path for path in written if f"wrote {path}\n" not in result.output] == []
    assert "no graph of that name; nearest is qwen3; 13 of 13 kinds of tensors have a row" in result.output
    assert "pytest tests/parity/test_other.py, until it holds" in result.output
    before = [path.read_bytes() for path in written]
    written[2].unlink()
    again = command(folder, "--out", tmp_path / "tree")
    assert again.exit_code == 1
    assert again.output.count("is there already, wanted a new file; nothing was written") == 2
    assert not written[2].exists()
    assert [path.read_bytes() for path in written[:2]] == before[:2]


def test_a_class_that_a_family_serves_needs_no_draft(tmp_path: Path) -> None:
    result = command(tiny.tiny_llama(tmp_path / "Tiny"), "--out", tmp_path)
    assert result.exit_code == 1
    assert "LlamaForCausalLM is served by the family llama" in result.output


def test_what_cannot_be_told_is_asked(tmp_path: Path) -> None:
    folder = other(tmp_path / "Tiny", my_scale=3.5, my_gate=False)

    def rename(header: dict[str, Any]) -> None:
        for name in [name for name in header if "layers.1.mlp.up_proj" in name or "layers.0.mlp.down_proj" in name]:
            header[name.replace("mlp.", "mlp.strange_")] = header.pop(name)

    edit_header(folder, rename)
    checkpoint = open_checkpoint(folder)
    found = draft(checkpoint.config, shapes_of(checkpoint.tensors))
    said = "\n".join(found.questions)
    assert "llama.cpp has no architecture called other: is qwen3, as for qwen3, its graph?" in said
    assert "model.layers.{i}.mlp.strange_up_proj.weight (128x64) has no row" in said
    assert "only layers 0 have model.layers.{i}.mlp.up_proj.weight" in said
    assert "my_scale is '3.5' in config.json, and nothing reads it" in said
    text = family_text(found)
    assert 'config.require("my_gate", False, ' in text
    assert text.count("# OPEN: ") == len(found.questions) + sum(found.unread[key] is False for key in found.unread)


def test_the_tiny_checkpoint_is_small_and_says_what_the_real_one_says(tmp_path: Path) -> None:
    folder = other(tmp_path / "Tiny", num_hidden_layers=2, layer_types=["full_attention"] * 2, my_scale=3.5)
    checkpoint = open_checkpoint(folder)
    found = draft({**checkpoint.config, "hidden_size": 64}, shapes_of(checkpoint.tensors))
    text = checkpoint_text(found)
    assert all(line in text for line in ('"my_scale": 3.5,', '"num_hidden_layers": 2,', '"model_type": "other",'))
    assert 'CASES = {"": Case(other)}' in text
    assert "torch_dtype" not in text


@pytest.mark.parametrize("bad", ['x"""\nimport os\n"""', "a\nb", "é" * 40, "\x1b[2J", {'"': "\n"}, [1, "\\"], 1e400])
def test_nothing_in_a_strangers_config_becomes_code(bad: object, tmp_path: Path) -> None:
    config = dict(open_checkpoint(other(tmp_path / "Tiny")).config)
    shapes = shapes_of(open_checkpoint(tmp_path / "Tiny").tensors)
    shapes |= {f"model.layers.0.self_attn.q_proj.{bad}": (64,), f"model.layers.0.{{bad}}{bad}": (1, 2)}
    key = bad if isinstance(bad, str) else "strange"
    found = draft({**config, key: bad, "model_type": str(bad), f"{key} flag": False}, shapes)
    for text in (family_text(found), checkpoint_text(found), draft_text.test_text(found)):
        tree = ast.parse(text)
        names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        assert not names
        assert all(line.isprintable() for line in text.split("\n"))


def test_a_class_that_is_no_name_is_refused(tmp_path: Path) -> None:
    result = command(other(tmp_path / "Tiny", name="Other; import os"), "--out", tmp_path / "tree")
    assert result.exit_code == 1
    assert "architectures names no model class" in result.output
    assert not (tmp_path / "tree").exists()


def test_of_a_model_with_images_the_text_is_drafted_and_the_tower_asked_for(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(families()["qwen2_5_vl"][0].make(tmp_path / "Tiny"))
    inner = {key: value for key, value in checkpoint.config.items() if key not in ("architectures", "vision_config")}
    outer = {"architectures": ["OtherForConditionalGeneration"], "model_type": "other", "text_config": inner}
    for config in (checkpoint.config, {**outer, "vision_config": {}}):
        found = draft(config, shapes_of(checkpoint.tensors), "OtherForConditionalGeneration")
        assert any(question.endswith("have no table: see qwen2_vl.py") for question in found.questions)
        assert all(row.words for row in found.rows)
    assert '    config = Config(values).merged("text_config")\n' in family_text(found)
