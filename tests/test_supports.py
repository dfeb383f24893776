"""Which model a format can take is said once: by the roles of its tensors. What the stages' checks say is the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from convert import architectures, registry
from convert.architectures import TensorRole as R
from convert.architectures._roles import BY_GGUF_NAME, role_of
from convert.cli import main
from convert.errors import ConvertError
from convert.formats.base import SOURCE, Asked, Format, Sample
from convert.formats.onnx import families as cuts
from convert.source.checkpoint import open_checkpoint
from tests import tiny
from tests.architectures.test_families import CASES, VALUES_OF_STRANGERS
from tests.fixtures_gptq import FAMILIES as QUANTIZED
from tests.fixtures_gptq import STAGES, source_bundle
from tests.parity.families import families, tried

ATTENTION = ({R.Q, R.K, R.V}, {R.QKV}, {R.LATENT})
MLP = ({R.UP, R.DOWN}, {R.GATE_UP, R.DOWN}, {R.EXPERT_UP, R.EXPERT_DOWN}, {R.EXPERT_GATE_UP, R.EXPERT_DOWN})


@pytest.fixture(scope="module", params=tried(CASES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return CASES[request.param].make(tmp_path_factory.mktemp("checkpoint") / "Tiny")


def stages(format_: Format, text: Path) -> list[Asked]:
    """What the format's own stages are asked with usual options, of a source."""
    usual = [a for a in format_.previews(Sample(str(text), 16)) if a.takes == SOURCE and not a.words]
    return [asked for asked in usual if asked.stage != "imatrix"]  # which makes no model


def test_every_tensor_has_a_role_and_every_decoder_attention_and_an_mlp(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    roles = architectures.roles(checkpoint.config, checkpoint.tensors)
    assert not roles.unknown
    assert {name for name in checkpoint.tensors if name not in roles.of} <= set(_left_out(checkpoint))
    if not roles.present & {R.STATE_SPACE, R.CONVOLUTION}:  # whose layers may be nothing else
        assert any(kinds <= roles.present for kinds in ATTENTION)
        assert any(kinds <= roles.present for kinds in MLP)
        assert R.O in roles.present
    assert {R.EMBEDDING, R.HEAD} - roles.present <= {R.HEAD}, "a head may be the embedding"
    assert bool(roles.vision) == (roles.family.vision is not None)
    allowed = architectures.DENSE | architectures.VISION
    if not checkpoint.config.get("lora_adaptations"):  # Jina v3 has RoBERTa's class and no table of positions
        assert set(roles.family.usual_roles().beyond(allowed)) <= set(roles.beyond(allowed))
    for name in roles.linears:
        assert len(checkpoint.tensors[name].shape) > 1


def _left_out(checkpoint: Any) -> list[str]:
    spec = architectures.find(checkpoint.config).text(checkpoint.config)
    own = architectures.find(checkpoint.config).own_name
    return [name for name in checkpoint.tensors if any(rule.covers(own(name)) for rule in spec.left_out)]


def test_supports_is_what_the_stages_check_says(folder: Path, tmp_path: Path) -> None:
    """No problem of some stage of the format, asked as usual: yes. The other way round too."""
    text = tmp_path / "text.txt"
    text.write_text("some text\n" * 50, encoding="utf-8")
    checkpoint, bundle = open_checkpoint(folder), source_bundle(folder)
    family = architectures.find(checkpoint.config)
    for format_ in registry.formats():
        found = [
            registry.load(asked.stage).check(
                registry.load(asked.stage).Options.model_validate(asked.options), {SOURCE: bundle}
            )
            for asked in stages(format_, text)
        ]
        support = format_.supports(checkpoint)
        if found:
            assert support.yes == any(not problems for problems in found), (format_.name, support, found)
        if not format_.supports_family(family).yes:
            assert not support.yes, "what a family cannot, none of its models can"


def test_what_llama_cpp_cannot_compute_has_roles_and_is_quantized_all_the_same(tmp_path: Path) -> None:
    """Frequencies that change with the text's length are nothing to GPTQ."""
    folder = tiny.tiny_llama(tmp_path / "Tiny", rope_scaling={"type": "dynamic", "factor": 2.0})
    checkpoint = open_checkpoint(folder)
    supports = {format_.name: format_.supports(checkpoint) for format_ in registry.formats()}
    assert not supports["gguf"].yes
    assert supports["compressed"].yes
    assert str(architectures.roles(checkpoint.config, checkpoint.tensors)) == "2 x (q, k, v, o, gate, up, down)"


@pytest.mark.parametrize("name", architectures.names())
def test_a_strangers_config_never_breaks_the_roles(name: str, tmp_path: Path) -> None:
    folder = families()[name][0].make(tmp_path / "Tiny")
    checkpoint = open_checkpoint(folder)
    for key in [*checkpoint.config, None]:
        for value in VALUES_OF_STRANGERS:
            config = {**checkpoint.config, key: value} if key else checkpoint.config
            try:
                architectures.roles(config, checkpoint.tensors)
            except ConvertError:
                continue


def test_a_tensor_nobody_knows_is_refused_before_anything_is_quantized(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import load_file, save_file

    folder = tiny.tiny_llama(tmp_path / "Tiny")
    path = folder / "model.safetensors"
    save_file({**load_file(path), "model.layers.0.mlp.extra.weight": np.zeros((32, 32), np.float32)}, path)
    (said,) = next(f for f in registry.formats() if f.name == "compressed").supports(open_checkpoint(folder)).missing
    assert "unknown tensor 'model.layers.0.mlp.extra.weight'" in said


# ---- the declarations


@pytest.mark.parametrize("name", architectures.names())
def test_a_family_declares_what_it_is(name: str) -> None:
    family = architectures.load(name)
    assert family.name == name
    assert family.title.strip()
    assert (family.vision is not None) == bool(family.vision_prefix)
    assert family.vision is None or family.has_vision or family.has_audio
    assert family.graphs in ("", architectures.TEXT_GRAPH, architectures.TASK_GRAPH, *cuts.names())
    assert set(family.tested) <= set(registry.names())


@pytest.mark.parametrize("method", STAGES)
def test_families_say_which_of_the_calibrating_stages_a_test_runs_on_them(method: str) -> None:
    made = {name.removesuffix("-awq") for name, (_, used, _) in QUANTIZED.items() if used == method}
    tested = {family.name for family in architectures.families() if method in family.tested}
    assert tested == {name.replace("mistral", "llama") for name in made} | {"qwen2_5_vl"}  # fara-nano


def test_every_way_to_cut_a_model_is_some_familys() -> None:
    stated = {family.graphs for family in architectures.families()}
    assert set(cuts.names()) <= stated
    assert all(cuts.load(cut).parts for cut in stated if cut not in ("", architectures.TASK_GRAPH))


def test_fused_tensors_have_roles_of_their_own() -> None:
    assert role_of(["blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"]) is R.QKV
    assert role_of(["blk.3.ffn_gate_exps.weight", "blk.3.ffn_up_exps.weight"]) is R.EXPERT_GATE_UP
    assert role_of(["blk.3.attn_k_b.weight", "blk.3.attn_v_b.weight"]) is R.LATENT
    assert (role_of(["v.blk.0.attn_q.weight"]), role_of(["mm.2.bias"])) == (R.TOWER, R.PROJECTOR)
    with pytest.raises(KeyError, match=r"blk\.0\.strange\.weight: no role is known"):
        role_of(["blk.0.strange.weight"])


def test_the_table_of_roles_has_llama_cpps_names() -> None:
    """Of gguf-py: a name that is none of its own would never be found."""
    from gguf.constants import TENSOR_NAMES

    theirs = {name.rpartition("blk.{bid}.")[2] for name in TENSOR_NAMES.values()}
    assert {name.removesuffix(".scale") for name in BY_GGUF_NAME} <= theirs  # Gemma 4's scales beside a matrix


def test_the_families_are_listed_with_the_formats_that_take_them() -> None:
    every = CliRunner().invoke(main, ["families"]).output.splitlines()
    assert [line.partition(" ")[0] for line in every[:-1]] == architectures.names()
    assert next(line for line in every if line.startswith("mixtral ")).endswith(" Mixtral: MixtralForCausalLM")
    said = CliRunner().invoke(main, ["families", "MixTral"]).output.splitlines()
    assert said[:2] == ["mixtral              Mixtral", f"{'':<20} MixtralForCausalLM"]
    assert said[2].split(", ")[0].strip() == "GGUF"
    none = CliRunner().invoke(main, ["families", "xyzzy"])
    assert (none.exit_code, "has xyzzy in its name" in none.output) == (1, True)
    objects = map(json.loads, CliRunner().invoke(main, ["families", "--json"]).output.splitlines())
    found: Mapping[str, Any] = {one["family"]: one for one in objects}
    assert list(found) == architectures.names()
    assert set(found["llama"]["missing"]) == {format_.name for format_ in registry.formats()}
    assert all(found["llama"]["missing"][name] == [] for name in ("gguf", "compressed", "onnx", "tensorrt"))
    assert found["mixtral"]["missing"]["onnx"] == []
    assert "has experts" in found["mixtral"]["missing"]["tensorrt"][0]
