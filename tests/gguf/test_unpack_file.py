"""A GGUF file as a checkpoint: converted again, it is the file it was; transformers computes with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from convert.bundle import Bundle, Role
from convert.cli import main
from convert.formats.gguf.checkpoint_stage import STAGE as stage
from convert.formats.gguf.stage import STAGE as gguf
from convert.model.reference import open_reference
from convert.progress import Silent
from convert.source.stage import STAGE as source
from convert.source.stage import SourceOptions
from tests import tiny
from tests.fixtures_gguf import convert, read_gguf, source_inputs
from tests.parity.families import cases
from tests.parity.upstream import compare


def unpacked(path: Path, out: Path, **options: Any) -> Bundle:
    words, inputs = stage.Options(**options), {"source": source.forecast(SourceOptions(path=path), {})}
    assert [str(p) for p in stage.check(words, inputs)] == []
    out.mkdir()
    return stage.run(words, inputs, out, Silent())


CASES = (
    "llama",
    "llama, biases, untied, heads of their own size",
    "llama, linear scaling",
    "llama, yarn",
    "qwen2",
    "qwen3",
)


@pytest.mark.parametrize("name", CASES)
def test_converted_again_it_is_the_same_file(name: str, tmp_path: Path) -> None:
    folder = cases()[name].make(tmp_path / "Tiny")
    (first,) = convert(folder, tmp_path / "first", "BF16").of(Role.WEIGHTS)
    bundle = unpacked(first.path, tmp_path / "again")
    options, out = gguf.Options(types=["BF16"]), tmp_path / "out"
    assert [str(p) for p in gguf.check(options, {"source": bundle})] == []
    out.mkdir()
    (second,) = gguf.run(options, {"source": bundle}, out, Silent()).of(Role.WEIGHTS)
    assert [str(d) for d in compare(second.path, first.path)] == []


def test_llama_3s_scaling_is_found_in_its_factors(tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 8192
    folder = tiny.tiny_llama(tmp_path / "Tiny", rope_scaling=scaling, rope_theta=500000.0)
    (first,) = convert(folder, tmp_path / "first", "F32").of(Role.WEIGHTS)
    unpacked(first.path, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["rope_scaling"] == scaling


def test_the_reference_computes_with_it(tmp_path: Path) -> None:
    """As with the checkpoint that the file was made from."""
    folder = tiny.tiny_qwen2(tmp_path / "Tiny")
    (first,) = convert(folder, tmp_path / "first", "BF16").of(Role.WEIGHTS)
    bundle = unpacked(first.path, tmp_path / "again")
    found = []
    for one in (source_inputs(folder)["source"], bundle):
        with open_reference(one, 1) as session:
            found.append((session.logits([5, 17, 99]), session.tokenize("Hello, world: 123 <|im_start|>")))
    assert (found[0][0] == found[1][0]).all()
    assert found[0][1] == found[1][1]


def test_a_recipe_goes_on_with_it(tmp_path: Path) -> None:
    """A folder of FP8 is planned on the tensors that will be, and made of them."""
    (first,) = convert(tiny.tiny_qwen2(tmp_path / "Tiny"), tmp_path / "first", "BF16").of(Role.WEIGHTS)
    stages = {"c": {"use": "checkpoint"}, "d": {"use": "fp8", "from": "c"}}
    (tmp_path / "r.yaml").write_text(json.dumps({"name": "x", "model": {"path": str(first.path)}, "stages": stages}))
    run = CliRunner().invoke(main, ["run", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "out")])
    assert run.exit_code == 0, run.output
    assert [path.name for path in (tmp_path / "out" / "x" / "d").glob("*-FP8-dynamic")] == ["Tiny-FP8-dynamic"]


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    def said(path: Path, **options: Any) -> str:
        given = {"source": source.forecast(SourceOptions(path=path), {})}
        return " ".join(map(str, stage.check(stage.Options(**options), given)))

    (other,) = convert(cases()["gemma2"].make(tmp_path / "g"), tmp_path / "go", "BF16").of(Role.WEIGHTS)
    assert "is of the architecture 'gemma2', wanted llama, qwen2 or qwen3" in said(other.path)
    (lossy,) = convert(tiny.tiny_llama(tmp_path / "l"), tmp_path / "lo", "Q8_0").of(Role.WEIGHTS)
    assert "tensors of Q8_0" in said(lossy.path)
    assert said(lossy.path, allow_requantize=True) == ""
    assert read_gguf(lossy.path)
    (problem,) = stage.check(stage.Options(), source_inputs(tmp_path / "l"))
    assert "takes one GGUF file" in str(problem)
