"""A contract for every file in convert/architectures, tested unasked: a new family needs only a tiny model below."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert import architectures
from convert.architectures._graph_spec import GraphSpec
from convert.errors import ConvertError, InputError, PlanError
from convert.formats.gguf.ledger import match_tensors
from convert.source.checkpoint import LazyTensor
from convert.source.safetensors import read_header
from tests import tiny
from tests.fixtures_gguf import LLAMA3_ROPE
from tests.parity.families import every_case, families, loadable, tried

FAMILIES = families()
CASES = every_case()
VALUES_OF_STRANGERS = (0, -1, 1.5, "8", True, [], {}, [1], None, 10**9, 10**30, float("nan"), float("inf"), "\ud800")


def parts(config: Mapping[str, Any]) -> list[GraphSpec]:
    family = architectures.find(config)
    made = [family.text(config)]
    if family.vision:
        made.append(family.vision(config, tiny.PREPROCESSOR))
    return made


@pytest.fixture(scope="module", params=tried(CASES))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return CASES[request.param].make(tmp_path_factory.mktemp("checkpoint"))


def refusals(config: Mapping[str, Any]) -> list[str]:
    try:
        parts(config)
    except ConvertError as error:
        return [str(problem) for problem in error.problems]
    return []


def config_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text()))


def test_every_class_is_served_by_one_family() -> None:
    classes = [name for family in architectures.families() for name in family.classes]
    assert len(classes) == len(set(classes)) >= 5


def test_every_family_has_a_tiny_checkpoint() -> None:
    assert architectures.names() == sorted(FAMILIES), "tests/parity/checkpoints has a file for each family"


def test_every_class_has_a_tiny_checkpoint(tmp_path: Path) -> None:
    made = {
        config_of(case.make(tmp_path / str(number)))["architectures"][0] for number, case in enumerate(CASES.values())
    }
    assert set(architectures.known()) <= made


def test_tables_name_every_tensor_with_its_shape(checkpoint: Path) -> None:
    """The checkpoint's are those of transformers' own class."""
    config = config_of(checkpoint)
    header = read_header(checkpoint / "model.safetensors")
    sources = {e.name: LazyTensor(e.name, e.shape, e.dtype, lambda: np.empty(0)) for e in header.entries}
    ledger = match_tensors(sources, parts(config), architectures.find(config))
    assert not ledger.problems
    assert not set(sources) - {entry.source.name for entry in ledger.entries} - set(ledger.left_out)


def test_every_target_has_its_own_name_and_all_values(checkpoint: Path) -> None:
    for part in parts(config_of(checkpoint)):
        targets = [(t.name, t.place) for w in part.tensors for t in w.outputs]
        targets += [(g.name, None) for g in part.generated]
        assert len(targets) == len(set(targets))
        assert all(len(name) < 64 for name, _ in targets)  # ggml.h, GGML_MAX_NAME
        for wanted in part.tensors:
            source = np.arange(np.prod(wanted.shape)).reshape(wanted.shape)
            views = [t.view(source) if t.view else source for t in wanted.outputs]
            plain = [
                (t.shape if t.place is None else t.shape[1:], v)
                for t, v in zip(wanted.outputs, views, strict=True)
                if not t.packed
            ]
            zeros = [t.zero_rows * np.prod(t.shape[1:]) for t in wanted.outputs if not t.packed]
            assert [v.size + more for (_, v), more in zip(plain, zeros, strict=True)] == [np.prod(s) for s, _ in plain]
            values = np.concatenate([v.reshape(-1) for v in views])  # embedding and head may be one, with two factors
            first = sum(t.skipped for t in wanted.outputs) * (source.size // max(1, len(source)) if source.ndim else 0)
            kept = list(range(first, source.size))
            if wanted.borrowed:
                assert len(set(values)) == len(values)
            else:
                assert sorted(values) == sorted(kept * (values.size // len(kept)))


def test_every_place_of_a_joined_tensor_is_taken(tmp_path: Path) -> None:
    (part,) = parts(config_of(tiny.tiny_qwen3_moe(tmp_path, layers=1, experts=5)))
    joined: dict[str, list[int | None]] = {}
    for target in (t for w in part.tensors for t in w.outputs if t.place is not None):
        joined.setdefault(target.name, []).append(target.place)
    assert sorted(joined) == [f"blk.0.ffn_{which}_exps.weight" for which in ("down", "gate", "up")]
    assert all(places == list(range(5)) for places in joined.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_topk_prob": False}, "norm_topk_prob is false, wanted true"),
        ({"decoder_sparse_step": 2}, "decoder_sparse_step is 2, wanted 1"),
        ({"mlp_only_layers": [0]}, "mlp_only_layers is [0]"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok is 9, wanted at most num_experts, 8"),
        ({"num_experts": 10**6}, "num_experts is 1000000"),
        ({"num_experts": 1024, "num_hidden_layers": 512}, "wanted at most 131072 matrices of experts"),
    ],
)
def test_experts_llama_cpp_cannot_run_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    config = config_of(tiny.tiny_qwen3_moe(tmp_path, layers=1))
    with pytest.raises(PlanError) as caught:
        parts({**config, **changes})
    assert message in str(caught.value)


@pytest.mark.parametrize("name", tried(loadable()))
def test_both_spellings_of_the_config_say_the_same(name: str, tmp_path: Path) -> None:
    """transformers 5 writes rope_parameters and, for a model that sees, text_config."""
    import transformers

    checkpoint = CASES[name].make(tmp_path / "checkpoint")
    kind = config_of(checkpoint)["model_type"]
    if kind not in transformers.CONFIG_MAPPING:
        pytest.skip("a class of its publisher's code: there is one spelling")
    if kind in ("mt5", "umt5"):
        pytest.skip("transformers 5 writes of each that its head is tied, and forgets that it is not")
    transformers.AutoConfig.from_pretrained(checkpoint).save_pretrained(tmp_path)
    old, new = config_of(checkpoint), config_of(tmp_path)
    assert "rope_parameters" in new or not {"rope_theta", "rope_scaling"} & set(new)
    for one, other in zip(parts(old), parts(new), strict=True):
        assert {f.key: f.value for f in one.fields} == {f.key: f.value for f in other.fields}
        assert [(w.source, w.shape) for w in one.tensors] == [(w.source, w.shape) for w in other.tensors]


def test_any_value_of_a_stranger_is_taken_or_refused_in_one_line(checkpoint: Path) -> None:
    """No other exception, no endless loop, whatever stands in the config."""
    config = config_of(checkpoint)
    started = time.monotonic()
    for place in (config, *(v for v in config.values() if isinstance(v, dict))):
        for key, good in list(place.items()):
            for bad in VALUES_OF_STRANGERS:
                place[key] = bad
                said = refusals(config)
                assert all(len(line.splitlines()) == 1 and len(line) < 800 for line in said), said
            place[key] = good
    assert time.monotonic() - started < 20
    assert parts(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads is 0, wanted a whole number from 1"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3, wanted a divisor"),
        ({"hidden_size": "64"}, "hidden_size is '64'"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "type is 'dynamic'"),
        ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": 16}}, "beta_fast is 16, wanted 32"),
        ({"rope_scaling": {**LLAMA3_ROPE, "high_freq_factor": 0.5}}, "high_freq_factor is 0.5"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"head_dim": 15}, "head_dim is 15, wanted an even number"),
    ],
)
def test_what_llama_cpp_cannot_compute_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    config = config_of(tiny.tiny_llama(tmp_path, layers=1))
    with pytest.raises(PlanError) as caught:
        parts({**config, **changes})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fullatt_block_indexes": [0, 3]}, "fullatt_block_indexes is [0, 3]"),
        ({"fullatt_block_indexes": [1]}, "wanted every n-th of 4 blocks"),
        ({"window_size": 224}, "window_size is 224, wanted 112"),
        ({"spatial_merge_size": 4}, "spatial_merge_size is 4, wanted 2"),
        ({"temporal_patch_size": 1}, "temporal_patch_size is 1, wanted 2"),
        ({"out_hidden_size": 128}, "out_hidden_size is 128, wanted 64"),
        ({"num_heads": 3}, "num_heads is 3"),
        ({"in_chans": 1}, "in_chans is 1"),
    ],
)
def test_vision_towers_llama_cpp_cannot_run_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    config = config_of(tiny.tiny_qwen2_5_vl(tmp_path, layers=1))
    config["vision_config"] |= changes
    with pytest.raises(PlanError) as caught:
        parts(config)
    assert message in str(caught.value)


def test_all_problems_of_a_config_come_at_once(tmp_path: Path) -> None:
    config = config_of(tiny.tiny_llama(tmp_path, layers=1))
    with pytest.raises(PlanError) as caught:
        parts({**config, "hidden_size": -1, "vocab_size": None, "rope_theta": "x"})
    assert len(caught.value.problems) >= 3


@pytest.mark.parametrize("named", [None, [], [3], ["LlamaForCausalML"], "LlamaForCausalLM", [["x"]]])
def test_an_unknown_architecture_hears_the_nearest_and_where_all_are_listed(named: object) -> None:
    with pytest.raises(InputError, match="`convert families` lists all") as caught:
        architectures.find({"architectures": named, "model_type": "llamb"})
    if named == ["LlamaForCausalML"]:
        assert "not supported: model_type 'llamb' (LlamaForCausalML); nearest by name: llama " in str(caught.value)


def test_pixel_limits_reach_the_projector_and_those_llama_cpp_shrinks_are_noted(tmp_path: Path) -> None:
    config = config_of(tiny.tiny_qwen2_5_vl(tmp_path, layers=1))
    family = architectures.find(config)
    size = {"shortest_edge": 3136, "longest_edge": 12845056}  # as transformers 5 spells min_pixels and max_pixels
    processor = {k: v for k, v in tiny.PREPROCESSOR.items() if not k.endswith("_pixels")} | {"size": size}
    part = family.vision(config, {"image_processor": processor})
    fields = {f.key: f.value for f in part.fields}
    assert fields["clip.vision.image_min_pixels"] == 3136
    assert fields["clip.vision.image_max_pixels"] == 12845056
    assert "--image-max-tokens 16384" in part.notes[0]
    assert not family.vision(config, tiny.PREPROCESSOR).notes


def test_a_sliding_window_is_noted(tmp_path: Path) -> None:
    config = config_of(CASES["llama, mistral"].make(tmp_path))
    assert not parts(config)[0].notes
    (note,) = parts({**config, "sliding_window": 128})[0].notes
    assert "last 128 tokens" in note
