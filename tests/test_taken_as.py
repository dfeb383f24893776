"""`as: FAMILY`: a checkpoint of a class that no family serves, taken for one of a family that all its tensors fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convert import registry
from convert.architectures._nearest import nearest
from convert.bundle import Bundle, Manifest, Role
from convert.errors import ConvertError, Problem
from convert.plan import plan
from convert.progress import Silent
from convert.recipe import recipe_of
from convert.source.checkpoint import open_checkpoint, shapes_of
from convert.source.companions import read_companions
from convert.taken_as import STAGE as source
from tests import tiny
from tests.fixtures_gguf import convert
from tests.hostile import edit_config

GGUF = registry.load("gguf")
F32 = GGUF.Options.model_validate({"types": ["F32"]})


def fork(folder: Path, name: str = "MyForCausalLM", kind: str = "my", **words: Any) -> Path:
    tiny.tiny_llama(folder)
    edit_config(folder, architectures=[name], model_type=kind, **words)
    return folder


def taken(folder: Path, family: str = "llama") -> Any:
    return source.Options.model_validate({"path": folder, "as": family})


def problems(folder: Path, family: str) -> list[Problem]:
    return source.check(taken(folder, family), {})


def written(folder: Path, out: Path) -> Bundle:
    out.mkdir()
    return source.run(taken(folder), {}, out, Silent())


def test_the_file_of_a_renamed_fork_is_that_of_the_family(tmp_path: Path) -> None:
    renamed = fork(tmp_path / "renamed" / "Tiny")
    tiny.tiny_llama(tmp_path / "plain" / "Tiny")
    bundle = written(renamed, tmp_path / "source")
    wanted = convert(tmp_path / "plain" / "Tiny", tmp_path / "wanted", "F32").of(Role.WEIGHTS)[0].path
    forecast = source.forecast(taken(renamed), {})
    for number, given in enumerate((bundle, forecast)):
        assert GGUF.check(F32, {"source": given}) == []
        out = tmp_path / f"gguf{number}"
        out.mkdir()
        (made, *_) = GGUF.run(F32, {"source": given}, out, Silent()).of(Role.WEIGHTS)
        data = made.path.read_bytes()
        assert data[-4096:] == wanted.read_bytes()[-4096:]
        assert b"MyForCausalLM, converted as llama; transformers runs it as LlamaForCausalLM" in data


def test_every_stage_reads_the_familys_class_and_the_files_beside_it(tmp_path: Path) -> None:
    folder = fork(tmp_path / "Tiny")
    before = (folder / "config.json").read_bytes()
    bundle = written(folder, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (["LlamaForCausalLM"], "llama")
    assert read_companions(bundle).config == config
    assert {a.path.parent for role, a in bundle.artifacts() if role is not Role.WEIGHTS} == {tmp_path / "out"}
    assert [a.path.parent for a in bundle.of(Role.WEIGHTS)] == [folder.absolute()]
    assert (folder / "config.json").read_bytes() == before


def test_a_class_that_transformers_has_stays_its_own_there(tmp_path: Path) -> None:
    bundle = written(fork(tmp_path / "Tiny", "HeliumForCausalLM", "helium"), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (["LlamaForCausalLM"], "helium")
    assert bundle.model.taken_as.endswith("; transformers runs it by its own model_type, helium")


def test_an_exact_fit_is_proposed_and_never_taken_by_itself(tmp_path: Path) -> None:
    (said,) = GGUF.check(F32, {"source": source.forecast(source.Options(path=fork(tmp_path / "Tiny")), {})})
    assert "not supported: model_type 'my' (MyForCausalLM)" in str(said)
    assert "every tensor and every key of its config fits llama; `as: llama` under `model:` converts it" in str(said)


def test_what_the_config_says_besides_is_no_exact_fit(tmp_path: Path) -> None:
    folder = fork(tmp_path / "Tiny", residual_multiplier_of_mine=0.5)
    (said,) = GGUF.check(F32, {"source": source.forecast(source.Options(path=folder), {})})
    assert "nearest is llama, but residual_multiplier_of_mine is 0.5; where these change nothing, `as: llama`" in str(
        said
    )
    assert str(said).endswith("else `convert new-family FOLDER` drafts a family for it")


def test_tensors_that_do_not_fit_are_one_error_with_their_names(tmp_path: Path) -> None:
    (problem,) = problems(fork(tmp_path / "Tiny"), "qwen3")
    assert problem.where == "as"
    assert problem.got.startswith("the model is no qwen3: besides ")
    assert "without model.layers.{i}.self_attn.q_norm.weight, model.layers.{i}.self_attn.k_norm.weight" in problem.got


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("lama", "there is no family 'lama'; did you mean 'llama'?"),
        ("_config", "there is no family '_config'"),
        ("../llama", "there is no family '../llama'"),
    ],
)
def test_a_family_that_is_not_there(family: str, said: str, tmp_path: Path) -> None:
    (problem,) = problems(fork(tmp_path / "Tiny"), family)
    assert said in str(problem)


def test_a_class_that_a_family_serves_is_not_taken_for_another(tmp_path: Path) -> None:
    folder = tiny.tiny_llama(tmp_path / "Tiny")
    (problem,) = problems(folder, "qwen2")
    assert "config.json names LlamaForCausalLM, which the family llama serves" in str(problem)
    assert problems(folder, "llama") == []
    assert source.forecast(taken(folder), {}) == source.forecast(source.Options(path=folder), {})


def test_nothing_is_run_where_it_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="the model is no qwen3"):
        source.run(taken(fork(tmp_path / "Tiny"), "qwen3"), {}, tmp_path, Silent())


def test_a_gguf_file_names_its_own_architecture(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF")
    assert "leave `as` out" in str(source.check(taken(path), {})[0])


def test_keys_plan_and_manifest_know_it(tmp_path: Path) -> None:
    folder = fork(tmp_path / "Tiny")
    words = {
        "name": "r",
        "model": {"path": str(folder), "as": "llama"},
        "stages": {"gguf": {"use": "gguf", "types": ["F32"]}},
    }
    planned = plan(recipe_of(words, tmp_path / "r.yaml"), tmp_path / "out")
    assert not planned.problems
    (step, *_) = planned.steps
    assert step.key_inputs["options"]["as"] == "llama"
    assert "transformers" in step.key_inputs["tools"]
    assert any("MyForCausalLM, converted as llama" in note for note in planned.notes)
    bundle = written(folder, tmp_path / "made")
    manifest = Manifest("source", "source", "k", {}, "", bundle)
    (tmp_path / "made" / "manifest.json").write_text(manifest.to_json(tmp_path / "made"))
    assert Manifest.read(tmp_path / "made").bundle.model.taken_as == bundle.model.taken_as


def test_of_equally_near_families_the_one_that_others_build_on(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(fork(tmp_path / "Tiny"))
    found = nearest(checkpoint.config, shapes_of(checkpoint.tensors))
    assert found is not None
    assert (found.family, found.served, found.is_exact) == ("llama", "LlamaForCausalLM", True)
    granite = {**checkpoint.config, "embedding_multiplier": 2.0, "logits_scaling": 3.0}
    found = nearest(granite, shapes_of(checkpoint.tensors))
    assert found is not None
    assert found.family == "granite"
