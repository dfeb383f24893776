"""Quantized checkpoints, made whole while they are read: values, files, memory, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from convert.architectures._graph_spec import OutputTensor
from convert.bundle import Role
from convert.formats.gguf import tensors
from convert.formats.gguf.tensors import StreamedTensor
from convert.model.reference import How, open_reference
from convert.source import quantized
from convert.source.checkpoint import LazyTensor, open_tensors, read_config
from convert.source.stage import STAGE as source
from convert.source.stage import SourceOptions
from convert.source.unpack import matrix, scaled
from tests.fixtures_gguf import convert, digests, edit_config, edit_weights, source_inputs
from tests.fixtures_packed import E2M1, SCHEMES, as_float32, packed
from tests.parity.families import Case
from tests.parity.test_parity import is_allowed
from tests.parity.upstream import HOW_TO_GET, Upstream, compare, find_llama_cpp
from validate.runtimes import _compressed

ALL = sorted(SCHEMES)
UPSTREAM = [name for name in ALL if SCHEMES[name].upstream]
CASE = Case(lambda folder: folder, allowed={"order of tensors": "ours is that of the bytes, theirs that of the names"})
A_MATRIX = "model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    llama_cpp = find_llama_cpp()
    if llama_cpp is None:
        pytest.skip(HOW_TO_GET)
    with Upstream(llama_cpp) as running:
        yield running


@pytest.mark.parametrize("name", ALL)
def test_every_value_is_the_librarys_own(name: str, tmp_path: Path) -> None:
    folder, whole = packed(tmp_path / "m", name)
    stored = open_tensors(folder)
    assert "quantization_config" not in read_config(folder)
    for key, wanted in whole.items():
        found = stored[key]
        assert (found.shape, found.dtype) == (tuple(wanted.shape), "F32")
        np.testing.assert_array_equal(found.load(), wanted.numpy())
        assert found.rows is not None
        for start, stop in ((0, 1), (3, 31), (found.shape[0] - 5, found.shape[0])):
            np.testing.assert_array_equal(found.rows(start, stop), wanted[start:stop].numpy())
    assert set(stored) == set(open_tensors(as_float32(tmp_path / "again", name, tmp_path / "plain")))


@pytest.mark.parametrize(
    "name", [n for n in ALL if SCHEMES[n].words["quant_method"] == "compressed-tensors" and "order" not in n]
)
def test_compressed_tensors_says_the_same(name: str, tmp_path: Path) -> None:
    """Its own decompressors; those of 4-bit floats give bfloat16, and act order they do not read any more."""
    pytest.importorskip("compressed_tensors")
    folder, whole = packed(tmp_path / "m", name)
    plain, _ = _compressed.decoded(folder)
    for key, tensor in open_tensors(folder).items():
        if key in whole:
            ours = torch.from_numpy(np.array(tensor.load()))
            ours = ours.bfloat16().float() if "fp4" in name else ours
            assert torch.equal(ours, plain[key]), key


def test_transformers_says_the_same_of_fp8_in_blocks(tmp_path: Path) -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    codes = (torch.randn(64, 96) * 100).to(torch.float8_e4m3fn)
    scales = torch.rand(2, 3)
    save_file({"m.weight": codes, "m.weight_scale_inv": scales}, tmp_path / "model.safetensors")
    words = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [32, 32]}}
    (tmp_path / "config.json").write_text(json.dumps(words))
    theirs = Fp8Dequantize(None)._dequantize_one(codes, scales)
    assert torch.equal(torch.from_numpy(np.array(open_tensors(tmp_path)["m.weight"].load())), theirs)


@pytest.mark.parametrize("name", ["fp8 in blocks", "int4 in act order", "awq", "bitsandbytes, nf4 twice"])
def test_files_are_those_of_the_whole_weights(name: str, tmp_path: Path) -> None:
    folder, plain = packed(tmp_path / "m", name)[0], as_float32(tmp_path / "again", name, tmp_path / "plain")
    for kind in ("F32", "Q4_K_M"):
        ours = convert(folder, tmp_path / kind, kind).of(Role.WEIGHTS)[0].path
        theirs = convert(plain, tmp_path / f"{kind}-plain", kind).of(Role.WEIGHTS)[0].path
        assert digests(ours) == digests(theirs)


@pytest.mark.parametrize("name", UPSTREAM)
def test_files_equal_upstreams(name: str, upstream: Upstream, tmp_path: Path) -> None:
    folder, _ = packed(tmp_path / "tiny", name)
    for kind in ("F32", "F16"):
        ours, theirs = convert(folder, tmp_path / kind, kind).of(Role.WEIGHTS)[0].path, tmp_path / f"{kind}.gguf"
        upstream.convert(folder, kind, theirs)
        assert [str(d) for d in compare(ours, theirs) if not is_allowed(CASE, d)] == []


@pytest.mark.parametrize("name", ["fp8 in blocks", "gptq, second format, act order", "bitsandbytes, nf4"])
@pytest.mark.parametrize("layered", [True, False])
def test_the_reference_computes_with_whole_weights(name: str, layered: bool, tmp_path: Path) -> None:
    folder, plain = packed(tmp_path / "m", name)[0], as_float32(tmp_path / "again", name, tmp_path / "plain")
    tokens = [1, 17, 42, 99, 5, 250]
    found = []
    for one in (folder, plain):
        with open_reference(source_inputs(one)["source"], 1, how=How(layered=layered)) as session:
            found.append(session.logits(tokens))
            assert session.generate(tokens, 3)
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-5)


def test_a_matrix_is_computed_a_few_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large it is, no more than a chunk of its rows is asked for at once; here q and k are seen whole."""
    asked = []
    plain_rows = scaled._rows

    def noted(*arguments: Any) -> Any:
        rows = plain_rows(*arguments)

        def of(start: int, stop: int) -> np.ndarray:
            asked.append((stop - start) * arguments[2][1])
            return rows(start, stop)

        return of

    monkeypatch.setattr(scaled, "_rows", noted)
    monkeypatch.setattr(tensors, "CHUNK_VALUES", 640)
    monkeypatch.setattr(matrix, "BLOCK_VALUES", 640)
    convert(packed(tmp_path / "m", "fp8 in blocks")[0], tmp_path / "out", "Q8_0")
    assert asked
    assert max(asked) <= 640


def test_experts_in_a_stack_are_seen_one_by_one() -> None:
    """Whatever the view does within an expert; one that moves experts is given all of them."""
    wanted = np.arange(4 * 6 * 8, dtype=np.float32).reshape(4, 6, 8)
    asked: list[int] = []

    def rows(start: int, stop: int) -> np.ndarray:
        asked.append(stop - start)
        return wanted[start:stop]

    stack = LazyTensor("experts", (4, 6, 8), "F32", lambda: wanted, rows=rows)
    for view, computed in (
        (lambda values: values[:, :3], True),
        (lambda values: values.swapaxes(-1, -2), True),
        (lambda values: values[::-1], False),
        (lambda values: values.swapaxes(0, 1), False),
    ):
        asked.clear()
        output = OutputTensor("blk.0.ffn_up_exps.weight", view(wanted).shape, view)
        found = np.concatenate(list(StreamedTensor(output, stack).chunks()))
        np.testing.assert_array_equal(found.reshape(view(wanted).shape), view(wanted))
        assert bool(asked) is computed


def test_fp8_experts_in_a_stack(tmp_path: Path) -> None:
    """Scales of blocks in each expert; and pairs of 4 bits under E8M0."""
    codes = torch.randint(0, 0x70, (3, 8, 64), dtype=torch.uint8)
    scales = torch.rand(3, 2, 2)
    halves = torch.randint(-128, 128, (3, 8, 32), dtype=torch.int8)
    exponents = torch.randint(120, 130, (3, 8, 2), dtype=torch.uint8).view(torch.float8_e8m0fnu)
    stored = {
        "m.a": codes.view(torch.float8_e4m3fn),
        "m.a_scale_inv": scales,
        "m.b": halves,
        "m.b_scale_inv": exponents,
    }
    save_file(stored, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        '{"quantization_config": {"quant_method": "fp8", "weight_block_size": [4, 32]}}'
    )
    found = open_tensors(tmp_path)
    wanted = codes.view(torch.float8_e4m3fn).float() * scales.repeat_interleave(4, 1).repeat_interleave(32, 2)
    np.testing.assert_array_equal(found["m.a"].load(), wanted.numpy())
    bytes_ = halves.view(torch.uint8)
    values = E2M1[torch.stack((bytes_ & 15, bytes_ >> 4), -1).reshape(3, 8, 64).long()]
    wanted = values * exponents.float().repeat_interleave(32, 2)
    np.testing.assert_array_equal(found["m.b"].load(), wanted.numpy())
    assert found["m.b"].rows is not None
    np.testing.assert_array_equal(found["m.b"].rows(1, 3), wanted[1:].numpy())


def test_the_plan_says_by_what_it_is_quantized(tmp_path: Path) -> None:
    folder, _ = packed(tmp_path / "m", "fp8 in blocks")
    options = SourceOptions(path=folder)
    assert source.check(options, {}) == []
    assert source.notes(options) == [
        "the weights are quantized: FP8 in blocks of 32 x 48; they are made whole while they are read"
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"quant_method": "gptq", "bits": 4}, "GPTQ (4 bits)"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "GPTQ (4 bits, groups of 128)"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "compressed-tensors ('pack-quantized')"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bitsandbytes (4 bits, nf4)"),
        ({"quant_method": "hqq"}, "HQQ"),
    ],
)
def test_how_a_quantization_is_called(words: dict[str, Any], said: str) -> None:
    assert quantized.description(words) == said


def _without(suffix: str) -> Any:
    return lambda tensors: {name: t for name, t in tensors.items() if name != f"{A_MATRIX}.{suffix}"}


def _with(suffix: str, value: torch.Tensor) -> Any:
    return lambda tensors: tensors | {f"{A_MATRIX}.{suffix}": value}


BYTES = torch.uint8


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gptq", _without("scales"), f"{A_MATRIX} has no scales"),
        ("gptq", _with("g_idx", torch.full((64,), 9, dtype=torch.int32)), "g_idx is I32 [64], wanted a group of 4"),
        ("gptq", _with("qzeros", torch.zeros(4, 3, dtype=torch.int32)), "qzeros is I32 [4, 3], wanted I32 of 4 groups"),
        ("fp8 in blocks", _without("weight_scale_inv"), f"{A_MATRIX}.weight is F8_E4M3 and has no scale"),
        ("fp8 in blocks", _with("weight_scale_inv", torch.ones(7, 7)), "[7, 7], wanted scales of [128, 64] in blocks"),
        ("fp8 in blocks", _without("weight"), f"{A_MATRIX}.weight_scale_inv has no weight beside it"),
        ("int4", _without("weight_shape"), f"{A_MATRIX} has no weight_shape"),
        ("int4", _with("weight_shape", torch.tensor([128, 9999])), "wanted the words of [128, 9999]"),
        ("int4", _with("weight_scale", torch.ones(128, 3)), "wanted groups that 64 columns make whole"),
        ("nvfp4", _with("weight_scale", torch.ones(128, 3)), "wanted a scale for each 16 of [128, 64]"),
        ("awq", _with("scales", torch.ones(3, 128)), "wanted scales of 128 rows"),
        ("bitsandbytes, 8 bits", _with("weight_format", torch.tensor(1, dtype=BYTES)), "is stored in tiles"),
        ("bitsandbytes, nf4", _with("weight", torch.zeros(5, 1, dtype=BYTES)), "wanted U8, 8192 values of 4 bits"),
        (
            "bitsandbytes, nf4",
            _with("weight.quant_state.bitsandbytes__nf4", torch.zeros(5, dtype=BYTES)),
            "bitsandbytes__nf4 holds no JSON object",
        ),
    ],
)
def test_weights_that_are_not_as_they_say_are_named(name: str, change: Any, message: str, tmp_path: Path) -> None:
    folder, _ = packed(tmp_path / "m", name)
    edit_weights(folder, change)
    (problem,) = source.check(SourceOptions(path=folder), {})
    assert message in problem.got
    assert problem.got.startswith("quantization_config says ")
    assert "the model it was made from" in problem.remedy


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("gptq", {"checkpoint_format": "marlin"}, "checkpoint_format 'marlin' is not read here, only gptq and gptq_v2"),
        ("awq", {"version": "gemv"}, "version 'gemv' is not read here, only gemm"),
        ("awq", {"bits": 8}, "8 bits, not 4"),
        ("fp8 in blocks", {"weight_block_size": [0, 128]}, "a block of [0, 128], wanted [rows, columns]"),
        ("int8", {"transform_config": {"config_groups": {"u": {"type": "hadamard"}}}}, "rotated weights"),
        ("int8", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse weights"),
    ],
)
def test_what_a_method_has_that_is_not_read(name: str, words: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder, _ = packed(tmp_path / "m", name)
    edit_config(folder, quantization_config={**SCHEMES[name].words, **words})
    (problem,) = source.check(SourceOptions(path=folder), {})
    assert message in problem.got


@pytest.mark.parametrize("method", ["hqq", "torchao", "eetq", "aqlm", "quip", "spqr", "vptq"])
def test_other_methods_are_named_in_one_line(method: str, tmp_path: Path) -> None:
    folder, _ = packed(tmp_path / "m", "int8")
    (folder / "README.md").write_text("---\nbase_model: Org/Base-7B\n---\n")
    edit_config(folder, quantization_config={"quant_method": method})
    (problem,) = source.check(SourceOptions(path=folder), {})
    assert "such weights are not read here" in problem.got
    assert "Org/Base-7B" in problem.remedy
