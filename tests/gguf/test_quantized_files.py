"""Whole files of quantized types: every tensor's type by the rules, every byte what ggml makes of its values."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from convert.architectures._graph_spec import OutputTensor
from convert.bundle import Artifact, Bundle, Role
from convert.errors import ConvertError
from convert.formats.gguf.file_plan import FilePlan, TensorInfo
from convert.formats.gguf.imatrix import Imatrix, ImatrixEntry, write_imatrix
from convert.formats.gguf.stage import STAGE as stage
from convert.formats.gguf.tensors import StreamedTensor
from convert.formats.gguf.writer import HOT_VALUES, Group, write_files
from convert.progress import Silent
from quantize.blocks import TYPES
from quantize.mixes import MIXES, Asked, Hyper, Tensor, choose
from tests import tiny
from tests.fixtures_gguf import convert, edit_weights, read_gguf, source_inputs
from tests.fixtures_quantize import oracle
from tests.peer_quantize import ONLY_WEIGHTED

HYPER = Hyper("qwen2", layers=8, heads=8, kv_heads=2)
SLOW = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")
"""ggml takes seconds a matrix: those of the first layer are compared, and blocks of them in tests/quantize."""
QUANTIZED = tuple(name for name, mix in MIXES.items() if not mix.is_plain)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 256 values, eight layers, four query heads to a value head, an output of its own."""
    folder = tmp_path_factory.mktemp("grouped") / "Tiny"
    return tiny.tiny_qwen2(folder, hidden=256, layers=8, heads=8, kv_heads=2, vocab=384, intermediate_size=256)


@pytest.fixture(scope="module")
def values(grouped: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """float32 of every tensor, by its name in a GGUF file."""
    bundle = convert(grouped, tmp_path_factory.mktemp("f32"), "F32")
    _, tensors = read_gguf(bundle.of(Role.WEIGHTS)[0].path)
    return {name: np.array(tensor.data) for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def imatrix(values: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = np.random.default_rng(3)
    count = np.array([640], np.float32)
    entries = {
        name: ImatrixEntry((draw.random((1, v.shape[1])) ** 3 * count).astype(np.float32), count)
        for name, v in values.items()
        if v.ndim > 1 and name.startswith("blk.")
    }
    path = tmp_path_factory.mktemp("imatrix") / "some-imatrix.gguf"
    write_imatrix(path, Imatrix(entries, ("some.txt",), 5, 128))
    return path


ENCODED: dict[tuple[str, str, bool], np.ndarray] = {}
"""By tensor of `grouped`, type, and whether weighted: what ggml makes of it; most file types share most tensors."""


def check_against_ggml(
    artifact: Artifact, values: dict[str, np.ndarray], imatrix: Imatrix | None, asked: Asked
) -> None:
    """The rules choose each type, ggml_quantize_chunk encodes each tensor; the file is the same."""
    _, tensors = read_gguf(artifact.path)
    rows = [Tensor(name, v.shape) for name, v in values.items()]
    choices = choose(MIXES[artifact.type], rows, HYPER, asked)
    assert {n: t.tensor_type.name for n, t in tensors.items()} == {
        row.name: choice.type.name for row, choice in zip(rows, choices, strict=True)
    }
    for name, tensor in tensors.items():
        if TYPES[tensor.tensor_type.name].values > 1 and (tensor.tensor_type.name not in SLOW or ".0." in name):
            key = (name, tensor.tensor_type.name, imatrix is not None)
            if key not in ENCODED:
                weights = imatrix.weights(name, values[name].shape[-1]) if imatrix else None
                ENCODED[key] = oracle(values[name], tensor.tensor_type.name, weights)
            wanted = ENCODED[key]
            np.testing.assert_array_equal(tensor.data.reshape(wanted.shape), wanted, err_msg=f"{artifact.type} {name}")


@pytest.mark.parametrize("weighted", [False, True])
def test_every_file_type_is_what_ggml_makes(
    grouped: Path, values: dict[str, np.ndarray], imatrix: Path, weighted: bool, tmp_path: Path
) -> None:
    from convert.formats.gguf.imatrix import read_imatrix

    types = [t for t in QUANTIZED if weighted or t not in ONLY_WEIGHTED]
    bundle = convert(grouped, tmp_path, *types, imatrix=str(imatrix) if weighted else False)
    assert [a.type for a in bundle.of(Role.WEIGHTS)] == types
    for artifact in bundle.of(Role.WEIGHTS):
        fields, _ = read_gguf(artifact.path)
        assert fields["general.file_type"] == MIXES[artifact.type].file_type
        about = {k.removeprefix("quantize.imatrix."): v for k, v in fields.items() if k.startswith("quantize.")}
        entries = {"file": "some-imatrix.gguf", "dataset": "some.txt", "entries_count": 56, "chunks_count": 5}
        assert about == (entries if weighted else {})
        check_against_ggml(artifact, values, read_imatrix(imatrix) if weighted else None, Asked(imatrix=weighted))


def test_what_the_recipe_asks_for(grouped: Path, values: dict[str, np.ndarray], tmp_path: Path) -> None:
    options: dict[str, Any] = {"output_tensor": "Q5_0", "token_embedding": "Q3_K", "overrides": {"attn_[qk]": "Q6_K"}}
    bundle = convert(grouped, tmp_path / "asked", "Q4_K_M", **options)
    asked = Asked("Q5_0", "Q3_K", (("attn_[qk]", "Q6_K"),))
    check_against_ggml(bundle.of(Role.WEIGHTS)[0], values, None, asked)
    pure = convert(grouped, tmp_path / "pure", "Q5_K_M", pure=True)
    check_against_ggml(pure.of(Role.WEIGHTS)[0], values, None, Asked(pure=True))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_sources_of_other_float_types(dtype: str, tmp_path: Path) -> None:
    folder = tiny.tiny_llama(tmp_path / "tiny", hidden=256, layers=1, dtype=dtype)
    full, quantized = convert(folder, tmp_path / "out", "F32", "Q4_K_S").of(Role.WEIGHTS)
    exact, made = read_gguf(full.path)[1], read_gguf(quantized.path)[1]
    name = "blk.0.ffn_up.weight"
    np.testing.assert_array_equal(made[name].data, oracle(np.array(exact[name].data), "Q4_K"))


# ---- the writer by itself


def written(tmp_path: Path, values: np.ndarray, kind: str, importance: Any = None) -> np.ndarray:
    tensor = StreamedTensor(OutputTensor("t.weight", values.shape), values=values)
    info = TensorInfo("t.weight", values.shape, TYPES[kind])
    plan = FilePlan("t.gguf", f"gguf/{kind}", (), (info,))
    write_files(tmp_path, Group(((plan,),), (tensor,), importance), Silent())
    return np.frombuffer((tmp_path / "t.gguf").read_bytes()[len(plan.header) :][: info.nbytes], np.uint8)


def test_runs_of_rows_leave_no_seam(tmp_path: Path) -> None:
    """A tensor of many chunks, and rows that do not divide one."""
    columns = 768
    values = np.random.default_rng(1).normal(size=(20 * HOT_VALUES // columns + 3, columns)).astype(np.float32)
    weights = np.random.default_rng(2).random(columns).astype(np.float32)
    made = written(tmp_path, values, "Q4_K", lambda name, n: weights)
    np.testing.assert_array_equal(made, oracle(values, "Q4_K", weights).reshape(-1))


def test_every_expert_has_weights_of_its_own(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    values = draw.normal(size=(5, 131, 256)).astype(np.float32)  # a run of rows would reach into the next expert
    weights = draw.random((5, 256)).astype(np.float32)
    made = written(tmp_path, values, "Q4_K", lambda name, n: weights)
    wanted = [oracle(expert, "Q4_K", w).reshape(-1) for expert, w in zip(values, weights, strict=True)]
    np.testing.assert_array_equal(made, np.concatenate(wanted))


def test_a_shard_holds_the_bytes_of_the_whole_file(grouped: Path, tmp_path: Path) -> None:
    whole = convert(grouped, tmp_path / "whole", "Q4_K_M", "Q8_0").of(Role.WEIGHTS)
    shards = convert(grouped, tmp_path / "shards", "Q4_K_M", "Q8_0", split="2MB").of(Role.WEIGHTS)
    assert len(shards) > len(whole)
    for kind in ("Q4_K_M", "Q8_0"):
        (one,) = (read_gguf(a.path)[1] for a in whole if a.type == kind)
        parts = [read_gguf(a.path)[1] for a in shards if a.type == kind]
        assert list(itertools.chain(*parts)) == list(one)
        for name, tensor in itertools.chain(*(part.items() for part in parts)):
            np.testing.assert_array_equal(tensor.data, one[name].data)


# ---- what is refused


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        (float("nan"), "Q4_K_M", "nan at [5, 7]"),
        (float("inf"), "Q5_0", "inf at [5, 7]"),
        (1e12, "Q4_K_M", "1e+12 at [5, 7] is too large for Q4_K"),
        (-1e12, "IQ4_XS", "-1e+12 at [5, 7] is too large for IQ4_XS"),
    ],
)
def test_numbers_no_block_can_hold_are_named_by_place(value: float, kind: str, said: str, tmp_path: Path) -> None:
    folder = tiny.tiny_llama(tmp_path / "tiny", hidden=256, layers=1, dtype="float32")

    def poison(tensors: dict[str, Any]) -> None:
        tensors["model.layers.0.mlp.gate_proj.weight"][5, 7] = value

    edit_weights(folder, poison)
    with pytest.raises(ConvertError, match=r"model\.layers\.0\.mlp\.gate_proj\.weight") as caught:
        convert(folder, tmp_path / "out", kind)
    assert said in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def problems(folder: Path, *types: str, **options: Any) -> str:
    return "\n".join(
        map(str, stage.check(stage.Options.model_validate({"types": types, **options}), source_inputs(folder)))
    )


def test_a_type_that_is_garbage_without_an_imatrix_is_refused(grouped: Path, imatrix: Path, tmp_path: Path) -> None:
    assert "Q2_K_S needs an imatrix" in problems(grouped, "Q8_0", "Q2_K_S")
    assert problems(grouped, "Q2_K_S", imatrix=str(imatrix)) == ""
    partial = tmp_path / "partial.gguf"
    ones = np.ones((1, 256), np.float32)
    write_imatrix(partial, Imatrix({"blk.0.attn_q.weight": ImatrixEntry(ones, ones[0, :1])}, ("x",), 1, 1))
    assert "there is none for" in problems(grouped, "Q2_K_S", imatrix=str(partial))


def test_an_imatrix_of_another_model_is_refused(grouped: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    ones = np.ones((1, 256), np.float32)
    write_imatrix(path, Imatrix({"blk.0.attn_q.weight": ImatrixEntry(ones, ones[0, :1])}, ("x",), 1, 1, "0" * 64))
    hashed = source_inputs(grouped)["source"]
    weights = tuple(Artifact(a.kind, a.path, a.size, "ab" * 32) for a in hashed.of(Role.WEIGHTS))
    options = stage.Options.model_validate({"types": ["Q4_K_M"], "imatrix": str(path)})
    (problem,) = stage.check(options, {"source": hashed.with_(weights=weights)})
    assert "made from other weights" in str(problem)
    assert "does not exist" in problems(grouped, "Q4_K_M", imatrix=str(tmp_path / "none.gguf")).lower()


def test_an_override_about_no_tensor_is_refused(grouped: Path) -> None:
    assert "'atn_v' matches no tensor's name" in problems(grouped, "Q4_K_M", overrides={"atn_v": "Q8_0", "ffn": "Q6_K"})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"output_tensor": "Q6_k"}, "did you mean Q6_K?"),
        ({"token_embedding": "Q4_K_M"}, "is not a type that is written here"),
        ({"overrides": {"attn[": "Q8_0"}}, "is not a regular expression"),
        ({"overrides": {"attn": "Q9"}}, "is not a type that is written here"),
        ({"imatrix": True}, "is not an imatrix"),
        ({"imatrix": {"calibrate": "a.txt", "chunk": 3}}, "wanted the keys calibrate, chunks, window"),
        ({"types": ["Q4_K"]}, "did you mean Q4_K_M?"),
        ({"imatrix": {"calibrate": "a.txt", "window": 3}}, "window"),
        ({"split": "45"}, "is no size"),
        ({"split": 45}, "split"),
        ({"max_shard": "45"}, "is no size"),
        ({"max_shard": "45G", "split": "45GB"}, "former name of split"),
    ],
)
def test_words_of_a_recipe_are_checked(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        stage.Options.model_validate({"types": ["Q4_K_M"], **options})
    assert said in str(caught.value)


# ---- what the plan says


def test_the_plan_explains_every_type(grouped: Path, tmp_path: Path) -> None:
    import json

    from click.testing import CliRunner

    from convert.cli import main

    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"name: r\nmodel: {{path: {grouped}}}\nstages:\n  gguf: {{use: gguf, types: [Q4_K_M, F16]}}\n")
    words = ["plan", str(recipe), "--out", str(tmp_path / "out"), "--explain-types"]
    lines = CliRunner().invoke(main, words).stdout.splitlines()
    (line,) = (line.split(maxsplit=2) for line in lines if line.startswith("blk.0.attn_v.weight") and "Q6_K" in line)
    assert line[1:] == ["Q6_K", "attn_v: the first and last eighth of the layers and every third between them"]
    types = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)["types"]
    assert len(types) == 2 * len(read_gguf(convert(grouped, tmp_path / "f32", "F32").of(Role.WEIGHTS)[0].path)[1])
    assert {"file": "Tiny-Q4_K_M.gguf", "tensor": "output.weight", "type": "Q6_K", "rule": "output"} in types


# ---- the imatrix of an earlier stage, and one made on the way


def test_the_imatrix_of_the_stage_before_is_used(grouped: Path, imatrix: Path, tmp_path: Path) -> None:
    before = source_inputs(grouped)["source"].with_(imatrix=Artifact("gguf/imatrix", imatrix, imatrix.stat().st_size))
    made = {}
    for name, option in {"taken": None, "named": str(imatrix), "refused": False}.items():
        options = stage.Options.model_validate({"types": ["Q4_K_M"], "imatrix": option})
        (tmp_path / name).mkdir()
        bundle: Bundle = stage.run(options, {"source": before}, tmp_path / name, Silent())
        made[name] = bundle.of(Role.WEIGHTS)[0].sha256
    assert made["taken"] == made["named"] != made["refused"]


def test_an_imatrix_is_made_on_the_way(tmp_path: Path) -> None:
    folder = tiny.tiny_llama(tmp_path / "tiny", hidden=256, layers=1)
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 60)
    options = stage.Options.model_validate(
        {"types": ["Q2_K_S", "F16"], "imatrix": {"calibrate": str(text), "chunks": 2, "window": 64}}
    )
    inputs = source_inputs(folder)
    assert stage.check(options, inputs) == []
    predicted = stage.forecast(options, inputs)
    (tmp_path / "out").mkdir()
    made = stage.run(options, inputs, tmp_path / "out", Silent())
    for role in (Role.WEIGHTS, Role.IMATRIX):
        assert [(a.path.name, a.size) for a in made.of(role)] == [(a.path.name, a.size) for a in predicted.of(role)]
    fields, _ = read_gguf(made.of(Role.WEIGHTS)[0].path)
    assert fields["quantize.imatrix.file"] == "tiny-imatrix.gguf" == made.of(Role.IMATRIX)[0].path.name
    assert fields["quantize.imatrix.chunks_count"] == 2
