"""Pickled weights: plain tensors come out as safetensors with the same bytes, everything else is refused by name."""

from __future__ import annotations

import collections
import json
import os
import pickle
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from convert.errors import InputError
from convert.progress import Silent
from convert.source import pickle_scan, pickled
from convert.source.checkpoint import PICKLES, STORAGE, weight_files
from tests.hostile import BROKEN, witness
from tests.tiny import tiny_llama

NAME = "pytorch_model.bin"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("pickled") / "llama")


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "model"))


def saved(folder: Path, state: Any, **options: Any) -> Path:
    torch.save(state, folder / NAME, **options)
    return folder / NAME


def convert(folder: Path, *, tied: bool = True) -> dict[str, torch.Tensor]:
    files, index = weight_files(folder, PICKLES)
    (folder / "out").mkdir()
    artifacts = pickled.convert(files, index, folder / "out", tied=tied, progress=Silent())
    assert [a.path.name for a in artifacts] == [a.path.name for a in pickled.forecast(files)]
    return {name: tensor for a in artifacts for name, tensor in load_file(a.path).items()}


STATE = {
    "bf16": torch.randn(3, 4).to(torch.bfloat16),
    "f16": torch.randn(5).half(),
    "f32": torch.randn(2, 3, 4),
    "f64": torch.randn(2).double(),
    "i64": torch.arange(4),
    "i32": torch.arange(4, dtype=torch.int32),
    "i16": torch.arange(4, dtype=torch.int16),
    "i8": torch.arange(4, dtype=torch.int8),
    "u8": torch.arange(4, dtype=torch.uint8),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
    "transposed": torch.randn(4, 6).t(),
    "slice": torch.randn(8, 4)[2:5, 1:3],
    "parameter": torch.nn.Parameter(torch.randn(3)),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", [dict, collections.OrderedDict])
def test_tensors_come_out_as_they_were(legacy: bool, kind: type, tmp_path: Path) -> None:
    saved(tmp_path, kind(STATE), _use_new_zipfile_serialization=not legacy)
    made = convert(tmp_path)
    assert made.keys() == STATE.keys()
    for name, tensor in made.items():
        assert tensor.dtype == STATE[name].dtype
        assert torch.equal(tensor, STATE[name].detach())


def test_a_module_s_own_state_dict(tmp_path: Path) -> None:
    """state_dict() is an OrderedDict with an attribute, `_metadata`, which the pickle sets."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    saved(tmp_path, module.state_dict())
    assert convert(tmp_path).keys() == module.state_dict().keys()


def test_tied_names_share_their_bytes_once(tmp_path: Path) -> None:
    embedding = torch.randn(8, 4)
    state = {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding, "rows": embedding[:4]}
    saved(tmp_path, state)
    assert list(convert(tmp_path, tied=True)) == ["model.embed_tokens.weight", "rows"]
    shutil.rmtree(tmp_path / "out")
    assert convert(tmp_path, tied=False).keys() == state.keys()


def shards(folder: Path) -> None:
    """The good checkpoint as two pickles and their index."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for i, names in enumerate((sorted(state)[:9], sorted(state)[9:]), 1):
        file = f"pytorch_model-{i:05}-of-00002.bin"
        torch.save({name: state[name] for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_shards(good: Path, folder: Path) -> None:
    shards(folder)
    made, expected = convert(folder), load_file(good / "model.safetensors")
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[name], expected[name]) for name in made)
    assert sorted(p.name for p in (folder / "out").iterdir()) == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]


def test_an_index_that_disagrees(folder: Path) -> None:
    shards(folder)
    index = json.loads((folder / "pytorch_model.bin.index.json").read_text())
    index["weight_map"]["more"] = "pytorch_model-00001-of-00002.bin"
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="does not hold it"):
        convert(folder)


def test_a_tensor_in_two_shards(folder: Path) -> None:
    shards(folder)
    shutil.copy(folder / "pytorch_model-00001-of-00002.bin", folder / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(InputError, match="holds too"):
        convert(folder)


@pytest.mark.parametrize("case", [case for case in BROKEN if "pickle" in case])
def test_hostile_cases(case: str, folder: Path) -> None:
    BROKEN[case](folder)
    files, _ = weight_files(folder, PICKLES)
    with pytest.raises(InputError, match=r"import 'posix\.system'|compressed entries"):
        pickle_scan.scan(files[0])
    with pytest.raises(InputError):
        convert(folder)
    assert not witness(folder).exists()
    assert not list((folder / "out").iterdir())


class Reduced:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_imports_are_found_in_every_protocol(protocol: int, tmp_path: Path) -> None:
    state = {"a": [Reduced(os.system, "true"), Reduced(eval, "1"), Reduced(os.system, "again")]}
    path = saved(tmp_path, state, pickle_protocol=protocol)
    with pytest.raises(InputError, match=r"wants to import '(builtins|__builtin__)\.eval', 'posix\.system'"):
        pickle_scan.scan(path)


@pytest.mark.parametrize(
    ("program", "name"),
    [
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "posix.system"),
        (b"\x80\x04\x8c\x05posix\x940\x8c\x06system\x940h\x00h\x01\x93.", "posix.system"),  # out of the memo
        (b"\x80\x04\x8c\x0bcollections\x8c\x0bOrderedDict00\x93.", "?.?"),  # texts popped again
        (b"\x80\x04\x8c\x0bcollections\x8c\x0bOrderedDict2\x93.", "?.?"),  # duplicated
        (b"\x80\x02U\x05posixU\x06system\x93.", "?.?"),  # the texts of protocol 1
        (b"(S'true'\niposix\nsystem\n.", "posix.system"),
        (b"\x80\x02\x82\x01.", "the copyreg extension 1"),
        (b"\x80\x02ctorch.storage\n_load_from_bytes\n.", "torch.storage._load_from_bytes"),
        (b"\x80\x02c__builtin__\ngetattr\n.", "__builtin__.getattr"),
    ],
)
def test_imports_are_named(program: bytes, name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / NAME, "w") as archive:
        archive.writestr("archive/data.pkl", program)
    with pytest.raises(InputError) as caught:
        pickle_scan.scan(tmp_path / NAME)
    assert f"import '{name}'" in str(caught.value)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"epoch": 3}, "'epoch': is a int, wanted a tensor"),
        ({"state_dict": {"a": torch.zeros(1)}}, "is it a training checkpoint"),
        ([torch.zeros(1)], "holds a list"),
        ({1: torch.zeros(1)}, "1: is not a tensor's name"),
        ({"a\n": torch.zeros(1)}, "is not a tensor's name"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "ComplexFloatStorage"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "_rebuild_sparse_tensor"),
        ({"a": torch.zeros(1).expand(1 << 40)}, "more values than the file"),
        ({"a": torch.zeros(2, device="meta")}, "_rebuild_meta_tensor_no_storage"),
    ],
)
def test_what_is_not_a_plain_tensor_is_refused(state: Any, says: str, tmp_path: Path) -> None:
    saved(tmp_path, state)
    with pytest.raises(InputError) as caught:
        convert(tmp_path)
    assert says in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x80",
        b"PK\x03\x04",
        b"hello, world",
        pickle.dumps({"a": 1}),
        b"version https://git-lfs.github.com/spec/v1\n",
        b"\0" * 257 + b"ustar" + b"\0" * 250,
        b"\x80\x02X\xff\xff\xff\x7f",
        b"\x80\x04\x8e" + b"\xff" * 8,
    ],
)
def test_not_a_state_dict_at_all(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(raw)
    with pytest.raises(InputError):
        pickle_scan.scan(tmp_path / NAME)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torch_script_is_refused(tmp_path: Path) -> None:
    module = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    torch.jit.save(module, tmp_path / NAME)
    with pytest.raises(InputError, match="TorchScript"):
        pickle_scan.scan(tmp_path / NAME)


@pytest.mark.parametrize("legacy", [False, True])
def test_damage_at_random_is_an_input_error(legacy: bool, tmp_path: Path) -> None:
    whole = saved(tmp_path, {"a": torch.ones(4), "b": torch.ones(2).half()}, _use_new_zipfile_serialization=not legacy)
    text, draw = whole.read_bytes(), random.Random(3)
    for number in range(300):
        raw = bytearray(text)
        for _ in range(draw.randint(1, 6)):
            raw[draw.randrange(len(raw))] = draw.randrange(256)
        whole.write_bytes(raw if draw.random() < 0.8 else raw[: draw.randrange(len(raw))])
        out = tmp_path / f"out{number}"
        out.mkdir()
        try:
            pickled.convert([whole], {}, out, tied=True, progress=Silent())
        except InputError:
            assert not list(out.iterdir())


def test_every_dtype_that_is_converted_can_be_read() -> None:
    assert set(pickle_scan.DTYPES.values()) <= STORAGE.keys()
