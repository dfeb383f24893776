"""Tables: what a line of one says becomes of a checkpoint tensor."""

from __future__ import annotations

import numpy as np
import pytest

from convert.architectures._config import Config
from convert.architectures._experts import MXFP4_TRANSFORMS
from convert.architectures._graph_spec import PLUS_ONE, TRANSPOSED, GraphSpec, TensorRule, Transform, expand
from convert.architectures._rope import Rotary, read_rope, rope_fields, rope_tensors
from convert.architectures._rows import MLP, biases, named
from convert.architectures._window import require_every, sliding_layers
from convert.errors import PlanError
from convert.formats.gguf.ledger import match_tensors
from convert.formats.gguf.tensors import StreamedTensor, expert_parameters, spec_tensors
from convert.source.checkpoint import LazyTensor

SIZES = {"hidden": 6, "q": 4, "kv": 2, "ffn": 3, "experts": 2, "blocks": 2, "bytes": 16}


def outputs(
    row: TensorRule, transforms: dict[str, Transform] | None = None, dtype: str = "F32"
) -> dict[str, np.ndarray]:
    """The tensors that a row makes of 0, 1, 2, …, as the writer gets them."""
    wanted = expand([row], SIZES, transforms)
    sources = {}
    for number, want in enumerate(wanted):
        values = np.arange(np.prod(want.shape), dtype=np.float32).reshape(want.shape) + 100 * number
        stored = values.astype({"U8": np.uint8}.get(dtype, np.float32))
        sources[want.source] = LazyTensor(want.source, want.shape, dtype, lambda stored=stored: stored)
    ledger = match_tensors(sources, [GraphSpec("x", (), wanted)])
    assert not ledger.problems
    tensors = spec_tensors(GraphSpec("x", (), wanted), ledger.entries)
    return {t.name: whole(t) for t in tensors}


def whole(tensor: StreamedTensor) -> np.ndarray:
    return np.concatenate(list(tensor.chunks())).reshape(tensor.shape)


def test_a_fused_matrix_is_cut_where_there_are_names_for_its_parts() -> None:
    made = outputs(("qkv", ("q", "k", "v"), ("q+kv+kv", "hidden")))
    source = np.arange(48).reshape(8, 6)
    assert {name: values.tolist() for name, values in made.items()} == {
        "q": source[:4].tolist(),
        "k": source[4:6].tolist(),
        "v": source[6:].tolist(),
    }


def test_a_fused_matrix_stays_where_there_is_one_name() -> None:
    assert outputs(("qkv", "qkv", ("q+kv+kv", "hidden")))["qkv"].shape == (8, 6)


def test_fused_experts_are_cut_and_turned_expert_by_expert() -> None:
    row: TensorRule = ("gate_up", ("gate", "up"), ("experts", "hidden", "ffn+ffn"), "transpose")
    made = outputs(row, {"transpose": TRANSPOSED})
    source = np.arange(72).reshape(2, 6, 6)
    assert np.array_equal(made["gate"], source[:, :, :3].swapaxes(1, 2))
    assert np.array_equal(made["up"], source[:, :, 3:].swapaxes(1, 2))


def test_fused_experts_are_read_an_expert_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However they lie: one that is turned is copied, and nothing else."""
    monkeypatch.setattr("convert.formats.gguf.tensors.CHUNK_VALUES", 4)
    row: TensorRule = ("gate_up", ("gate", "up"), ("experts", "hidden", "ffn+ffn"), "transpose")
    wanted = expand([row], SIZES, {"transpose": TRANSPOSED})
    source = LazyTensor("gate_up", (2, 6, 6), "F32", lambda: np.zeros((2, 6, 6), np.float32))
    tensors = spec_tensors(
        GraphSpec("x", (), wanted), match_tensors({"gate_up": source}, [GraphSpec("x", (), wanted)]).entries
    )
    assert [[chunk.shape for chunk in t.chunks()] for t in tensors] == [[(3, 6), (3, 6)], [(3, 6), (3, 6)]]


def test_rows_that_were_dealt_out_in_turn_are_gathered() -> None:
    made = outputs(("gate_up", ("gate", "up"), ("ffn/ffn", "hidden")))
    source = np.arange(36).reshape(6, 6)
    assert np.array_equal(made["gate"], source[::2])
    assert np.array_equal(made["up"], source[1::2])


def test_a_change_counts_as_float32_whatever_the_source_is() -> None:
    wanted = expand([("norm", "norm", ("hidden",), "norm")], SIZES, {"norm": PLUS_ONE})
    bits = np.array([0x3F80] * 6, np.uint16)  # 1 in bfloat16
    (tensor,) = spec_tensors(
        GraphSpec("x", (), wanted),
        match_tensors({"norm": LazyTensor("norm", (6,), "BF16", lambda: bits)}, [GraphSpec("x", (), wanted)]).entries,
    )
    (chunk,) = tensor.chunks()
    assert (tensor.storage, tensor.source_bytes, chunk.dtype, chunk.tolist()) == ("F32", 24, np.float32, [[2.0] * 6])


def test_a_turned_weight_has_a_bias_that_is_not() -> None:
    (row,) = biases([("w.weight", "x.weight", ("hidden", "q"), "transpose")])
    assert row == ("w.bias", "x.bias", ("hidden",), "transpose")
    assert outputs(row, {"transpose": TRANSPOSED})["x.bias"].tolist() == [0, 1, 2, 3, 4, 5]


def test_layers_that_differ_have_tables_of_their_own() -> None:
    (row, *_) = named(MLP, ("mlp.gate_proj", "ff.w1"))
    wanted = expand([row], {"ffn": 1, "hidden": 1}, layers=[2, 5])
    assert [w.source for w in wanted] == ["model.layers.2.ff.w1.weight", "model.layers.5.ff.w1.weight"]
    assert [w.outputs[0].name for w in wanted] == ["blk.2.ffn_gate.weight", "blk.5.ffn_gate.weight"]


def test_blocks_of_mxfp4_hold_in_ggmls_order_what_they_held() -> None:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    draw = np.random.default_rng(0)
    blocks = draw.integers(0, 256, (2, 6, 2, 16)).astype(np.uint8)
    scales = draw.integers(120, 134, (2, 6, 2)).astype(np.uint8)
    rows: list[TensorRule] = [
        ("w_blocks", ("gate", "up"), ("experts", "ffn/ffn", "blocks", "bytes"), "blocks"),
        ("w_scales", ("gate", "up"), ("experts", "ffn/ffn", "blocks"), "scales"),
    ]
    part = GraphSpec("x", (), expand(rows, SIZES, MXFP4_TRANSFORMS))
    sources = {
        "w_blocks": LazyTensor("w_blocks", blocks.shape, "U8", lambda: blocks),
        "w_scales": LazyTensor("w_scales", scales.shape, "U8", lambda: scales),
    }
    ledger = match_tensors(sources, [part])
    assert not ledger.problems
    made = {t.name: t for t in spec_tensors(part, ledger.entries)}
    assert made["up"].shape == (2, 3, 64)
    # transformers, integrations/mxfp4.py: the low half first, then the high one, times 2 ** (scale - 127)
    magnitudes = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    values = np.concatenate([magnitudes, -magnitudes])
    pairs = np.stack([values[blocks & 15], values[blocks >> 4]], -1).reshape(2, 6, 2, 32)
    numbers = (pairs * 2.0 ** (scales[..., None].astype(float) - 127)).reshape(2, 6, 64)
    for name, first in (("gate", 0), ("up", 1)):
        bytes_ = np.concatenate(list(made[name].chunks()))
        assert bytes_.shape == (6, 2 * 17)
        assert made[name].source_bytes == bytes_.nbytes
        got = dequantize(bytes_, GGMLQuantizationType.MXFP4).reshape(2, 3, 64)
        assert np.array_equal(got, numbers[:, first::2])


def test_bytes_are_no_weights_and_weights_no_blocks() -> None:
    part = GraphSpec("x", (), expand([("w", "w", ("hidden",))], SIZES))
    (problem,) = match_tensors({"w": LazyTensor("w", (6,), "U8", lambda: np.empty(0))}, [part]).problems
    assert "w of U8" in str(problem)
    part = GraphSpec(
        "x", (), expand([("b", "b", ("experts", "ffn", "blocks", "bytes"), "blocks")], SIZES, MXFP4_TRANSFORMS)
    )
    (problem,) = match_tensors({"b": LazyTensor("b", (2, 3, 2, 16), "F32", lambda: np.empty(0))}, [part]).problems
    assert "b of F32" in str(problem)


def test_weights_at_work_count_one_expert() -> None:
    tensors = [StreamedTensor(t) for w in expand([("a", "a", ("hidden",))], SIZES) for t in w.outputs]
    assert expert_parameters(tensors) == (0, 0)
    row: TensorRule = ("e", "blk.0.ffn_up_exps.weight", ("experts", "ffn", "hidden"))
    tensors += [StreamedTensor(t) for w in expand([row], SIZES) for t in w.outputs]
    assert expert_parameters(tensors) == (2, 6 + 18)


# -- configs -----------------------------------------------------------------------------------------------------------


def test_other_spellings_are_read_and_named_in_messages() -> None:
    config = Config({"n_embd": 0, "num_attention_heads": 2}).spelled(hidden_size="n_embd", num_attention_heads="n_head")
    assert config.size("num_attention_heads") == 2
    config.size("hidden_size")
    config.require("num_attention_heads", 4)
    assert "n_embd is 0" in str(config.problems[0])
    assert "num_attention_heads is 2, wanted 4" in str(config.problems[1])


def test_defaults_fill_what_is_missing_or_null() -> None:
    config = Config({"head_dim": None, "layers": 3}).with_defaults(head_dim=128, layers=4)
    assert (config.size("head_dim"), config.size("layers")) == (128, 3)


@pytest.mark.parametrize(("wanted", "given"), [(False, True), (False, 0), (1, True), ([], [0])])
def test_require_tells_numbers_from_flags(wanted: object, given: object) -> None:
    config = Config({"key": given})
    config.require("key", wanted)
    assert len(config.problems) == 1
    Config({"key": wanted}).require("key", wanted)


def test_longrope_gives_two_tensors_and_its_attention_factor() -> None:
    scaling = {"type": "su", "long_factor": [2.0, 3.0], "short_factor": [1.0, 1.5]}
    values = {"rope_scaling": scaling | {"original_max_position_embeddings": 128}, "partial_rotary_factor": 0.5}
    config = Config(values)
    rope = read_rope(config, Rotary(("longrope",), partial=1.0), 512, 8)
    tensors = {g.name: g.values.tolist() for g in rope_tensors(rope)}
    assert tensors == {"rope_factors_long.weight": [2.0, 3.0], "rope_factors_short.weight": [1.0, 1.5]}
    fields = {f.key: f.value for f in rope_fields(rope, "x")}
    assert fields["x.rope.scaling.original_context_length"] == 128
    assert fields["x.rope.scaling.attn_factor"] == pytest.approx(1.1338934)  # sqrt(1 + ln 4 / ln 128)
    assert not config.problems


def test_rotary_parameters_of_each_kind_of_layer_are_found() -> None:
    both = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    config = Config({"rope_parameters": both})
    assert read_rope(config, Rotary(), 512, 8).theta == 1e6
    assert read_rope(config, Rotary(), 512, 8, "sliding_attention").theta == 1e4


def test_words_of_yarn_that_a_family_looks_at_itself_are_no_problem() -> None:
    both = {"mscale": 0.7, "mscale_all_dim": 0.5}
    scaling = {"rope_type": "yarn", "factor": 4.0, **both, "truncate": False, "beta_fast": 16}
    config = Config({"rope_scaling": scaling})
    rope = read_rope(config, Rotary(("yarn",), own=(*both, "truncate", "beta_fast")), 512, 8)
    assert next(f.key for f in rope_fields(rope, "x")) == "x.rope.scaling.type"
    assert not config.problems
    rope_fields(read_rope(config, Rotary(("yarn",)), 512, 8), "x")
    assert len(config.problems) == 3


def test_a_text_model_inside_another_is_one_of_those_known() -> None:
    from convert.architectures._nested import nested_text, text_values

    part = nested_text({"text_config": {"model_type": "llama", "num_hidden_layers": 1}})
    assert part.architecture == "llama"
    assert part.tensors[0].shape == (32000, 4096)
    assert text_values({"text_config": {"model_type": "mistral", "sliding_window": None}})["sliding_window"] is None
    assert text_values({"text_config": {}, "tie_word_embeddings": True})["tie_word_embeddings"]
    with pytest.raises(PlanError, match="model_type is 'gemma', wanted 'llama', 'mistral', "):
        nested_text({"text_config": {"model_type": "gemma"}})
    with pytest.raises(PlanError, match="tie_word_embeddings is 'x'"):
        nested_text({"text_config": {"model_type": "llama"}, "tie_word_embeddings": "x"})


def test_a_part_of_a_head_turns_only_where_the_graph_can() -> None:
    config = Config({"partial_rotary_factor": 0.25})
    assert read_rope(config, Rotary(partial=1.0), 512, 16).dimensions == 4
    assert not config.problems
    read_rope(config, Rotary(), 512, 16)
    assert "partial_rotary_factor is 0.25" in str(config.problems[0])


def test_windows_by_layer_types_by_pattern_or_by_habit() -> None:
    assert sliding_layers(Config({}), 4, 2) == (True, False, True, False)
    assert sliding_layers(Config({"sliding_window_pattern": 3}), 4, 2) == (True, True, False, True)
    types = ["full_attention", "sliding_attention"]
    assert sliding_layers(Config({"layer_types": types}), 2, 2) == (False, True)
    config = Config({"layer_types": types, "sliding_window": 8})
    require_every(config, 2, 2)
    assert "layer_types is ['full_attention', 'sliding_attention']" in str(config.problems[0])
