"""Opening checkpoints: what is good opens without a copy, what is broken or hostile is one InputError."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.bundle import Artifact, Bundle, Model, Role
from convert.errors import InputError
from convert.source import safetensors
from convert.source.checkpoint import STORAGE, open_bundle, open_checkpoint
from convert.source.safetensors import BITS, read_header
from tests.hostile import (
    BROKEN,
    BY_CONFIG,
    EMBEDDING,
    INDEX,
    WEIGHTS,
    edit_header,
    read_parts,
    split,
    write_index,
    write_parts,
)
from tests.tiny import tiny_llama


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("good") / "llama")


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "model"))


def make(folder: Path, tensors: dict[str, np.ndarray], name: str = WEIGHTS) -> Path:
    """A checkpoint of these arrays, written by hand."""
    names = {dtype: key for key, dtype in STORAGE.items() if key != "BF16"}
    header, data = {}, b""
    for tensor, values in tensors.items():
        stop = len(data) + values.nbytes
        header[tensor] = {"dtype": names[values.dtype], "shape": list(values.shape), "data_offsets": [len(data), stop]}
        data += values.tobytes()
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    write_parts(folder / name, header, data)
    return folder


# --- what is good


def test_opens_what_safetensors_wrote(good: Path) -> None:
    from safetensors.torch import load_file

    opened = open_checkpoint(good)
    expected = load_file(good / WEIGHTS)
    assert opened.config["model_type"] == "llama"
    assert opened.tensors.keys() == expected.keys()
    for name, tensor in opened.tensors.items():
        assert tensor.shape == tuple(expected[name].shape)
        assert tensor.dtype == "BF16"
        assert tensor.load().tobytes() == bits(expected[name])
        assert tensor.nbytes == tensor.load().nbytes


def bits(tensor: Any) -> bytes:
    import torch

    return bytes(tensor.contiguous().view(torch.uint16).numpy().tobytes())


def test_shards_hold_what_the_single_file_held(good: Path, folder: Path) -> None:
    split(folder)
    whole, parts = open_checkpoint(good), open_checkpoint(folder)
    assert parts.tensors.keys() == whole.tensors.keys()
    assert all((parts.tensors[n].load() == whole.tensors[n].load()).all() for n in whole.tensors)
    assert {t.file for t in parts.tensors.values()} == {f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}


def test_complete_shards_need_no_index(folder: Path) -> None:
    split(folder)
    (folder / INDEX).unlink()
    assert EMBEDDING in open_checkpoint(folder).tensors


def test_shards_of_transformers_open(tmp_path: Path) -> None:
    opened = open_checkpoint(tiny_llama(tmp_path / "m", shards=3, dtype="float32", tied=False))
    assert len({t.file for t in opened.tensors.values()}) == 3
    assert opened.tensors["lm_head.weight"].load().dtype == np.float32


def test_weights_beside_are_not_the_models(folder: Path) -> None:
    make(folder.parent / "other", {"tok_embeddings": np.zeros(4, np.float32)}, "consolidated.safetensors")
    shutil.copy(folder.parent / "other/consolidated.safetensors", folder)
    assert "tok_embeddings" not in open_checkpoint(folder).tensors


def test_every_dtype_scalars_and_empty_tensors(tmp_path: Path) -> None:
    arrays = {f"t{i}": np.arange(6).reshape(2, 3).astype(d) for i, (k, d) in enumerate(STORAGE.items()) if k != "BF16"}
    arrays |= {"scalar": np.array(2.5, "<f4"), "empty": np.zeros((0, 7), "<f2"), "last": np.zeros((3, 0), "<f8")}
    opened = open_checkpoint(make(tmp_path / "m", arrays))
    for name, expected in arrays.items():
        loaded = opened.tensors[name].load()
        assert loaded.dtype == expected.dtype
        assert loaded.shape == expected.shape
        assert (loaded == expected).all()


def test_values_are_read_only_views(good: Path) -> None:
    tensor = open_checkpoint(good).tensors[EMBEDDING]
    values = tensor.load()
    assert not values.flags.writeable
    assert not values.flags.owndata
    before = values.copy()
    tensor.release()
    assert (values == before).all()  # a released page is read again


def test_release_gives_memory_back(tmp_path: Path) -> None:
    tensor = open_checkpoint(make(tmp_path / "m", {"t": np.ones(16 << 20, np.uint8)})).tensors["t"]
    tensor.load().sum()
    touched = resident_file_bytes()
    tensor.release()
    assert touched - resident_file_bytes() > 15 << 20


def resident_file_bytes() -> int:
    (kilobytes,) = re.findall(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) << 10


def test_a_file_that_changes_after_its_header_was_read(folder: Path) -> None:
    tensor = open_checkpoint(folder).tensors[EMBEDDING]
    edit_header(folder, lambda header: header.update(__metadata__={"another": "file"}))
    with pytest.raises(InputError, match="changed while"):
        tensor.load()


def test_hub_cache_layout(good: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / ("a" * 40)
    blobs = tmp_path / "models--org--tiny" / "blobs"
    shared = tmp_path / "blobs" / "ab"  # huggingface_hub 2 keeps equal files of several repositories once
    for made in (snapshot, blobs, shared):
        made.mkdir(parents=True)
    shutil.copy(good / "config.json", blobs / "1234")
    shutil.copy(good / WEIGHTS, shared / "abcd")
    (blobs / "5678").symlink_to("../../blobs/ab/abcd")
    (snapshot / "config.json").symlink_to("../../blobs/1234")
    (snapshot / WEIGHTS).symlink_to("../../blobs/5678")
    assert EMBEDDING in open_checkpoint(snapshot).tensors
    (tmp_path / "link").symlink_to(snapshot)
    assert EMBEDDING in open_checkpoint(tmp_path / "link").tensors


def test_hub_cache_links_stay_in_their_repository(good: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / ("a" * 40)
    other = tmp_path / "models--org--other" / "blobs"
    snapshot.mkdir(parents=True)
    other.mkdir(parents=True)
    shutil.copy(good / "config.json", snapshot)
    shutil.copy(good / WEIGHTS, other / "5678")
    (snapshot / WEIGHTS).symlink_to(other / "5678")
    with pytest.raises(InputError, match="leads out of its folder"):
        open_checkpoint(snapshot)


def test_bundle_with_weights_elsewhere(good: Path, tmp_path: Path) -> None:
    weights = Path(shutil.copy(good / WEIGHTS, tmp_path / WEIGHTS))
    roles = {
        Role.CONFIG: (Artifact("json", good / "config.json", 1),),
        Role.WEIGHTS: (Artifact("safetensors", weights, 1),),
    }
    opened = open_bundle(Bundle(Model("tiny"), roles))
    assert opened.folder == good
    assert EMBEDDING in opened.tensors


def test_writer_is_read_by_safetensors(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    arrays = {"a": np.arange(12, dtype="<f4").reshape(3, 4), "b": np.zeros((0, 2), "<i8"), "ü": np.array(7, "u1")}
    names = {dtype: key for key, dtype in STORAGE.items()}
    specs = {name: (names[values.dtype], values.shape) for name, values in arrays.items()}
    artifact = safetensors.write(tmp_path / "x.safetensors", specs, map(np.ravel, arrays.values()), {"format": "pt"})
    loaded = load_file(artifact.path)
    assert all((loaded[name] == values).all() and loaded[name].shape == values.shape for name, values in arrays.items())
    assert artifact.size == artifact.path.stat().st_size
    assert read_header(artifact.path).metadata == {"format": "pt"}


def test_writer_refuses_data_that_is_not_as_announced(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="its header says"):
        safetensors.write(tmp_path / "x.safetensors", {"a": ("F32", (4,))}, [bytes(12)], {})
    assert not (tmp_path / "x.safetensors").exists()


def test_storage_and_bits_agree() -> None:
    assert {dtype: 8 * storage.itemsize for dtype, storage in STORAGE.items()} == {d: BITS[d] for d in STORAGE}


# --- what is broken


SAYS = {
    "header_longer_than_file": "its header claims 1099511627776 bytes",
    "header_not_json": "not valid JSON",
    "overlapping_tensors": "overlap",
    "offsets_out_of_range": "ends at byte",
    "hole_between_tensors": "belong to no tensor",
    "bytes_after_the_end": "at its end belong to no tensor",
    "shape_too_large": "more values than a file can hold",
    "negative_shape": "a list of at most 64 counts",
    "tensor_twice_in_header": "is there twice",
    "truncated": "cut short",
    "empty_file": "is empty",
    "lfs_pointer": "git lfs pull",
    "unsupported_dtype": "not supported as source",
    "missing_shard": "model-00002-of-00002.safetensors', not in the folder",
    "tensor_in_two_shards": "holds too",
    "index_disagrees_with_shards": "which does not hold it",
    "path_outside_the_folder": "outside its folder",
    "absolute_path": "outside its folder",
    "symlink_out": "leads out of its folder",
    "config_symlink_out": "leads out of its folder",
    "config_missing": "has no config.json",
    "config_not_an_object": "holds a JSON list",
    "config_nested_too_deeply": "nested too deeply",
    "pickle_with_code": "pickled weights only",
    "legacy_pickle_with_code": "pickled weights only",
    "pickle_bomb": "pickled weights only",
}


def test_every_broken_case_is_expected() -> None:
    assert SAYS.keys() | BY_CONFIG == BROKEN.keys()


@pytest.mark.parametrize("case", SAYS)
def test_broken(case: str, folder: Path) -> None:
    BROKEN[case](folder)
    with pytest.raises(InputError) as caught:
        open_checkpoint(folder)
    message = str(caught.value)
    assert SAYS[case] in message
    assert "\n" not in message
    assert message.startswith(str(folder))


@pytest.mark.parametrize("case", sorted(BY_CONFIG))
def test_broken_by_config_only(case: str, folder: Path) -> None:
    """Nothing in the files is wrong: the architecture's check has to see it."""
    BROKEN[case](folder)
    assert EMBEDDING in open_checkpoint(folder).tensors


def entry(**words: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **words}


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"t": entry(shape=[True, 2])}, "counts"),
        ({"t": entry(shape=2)}, "counts"),
        ({"t": entry(shape=[1] * 65)}, "counts"),
        ({"t": entry(shape=[2.0])}, "counts"),
        ({"t": entry(shape=[1 << 62, 1 << 62, 0], data_offsets=[0, 0])}, "more values"),
        ({"t": entry(shape=[10**4000])}, "counts"),
        ({"t": entry(data_offsets=[8, 0])}, "data_offsets"),
        ({"t": entry(data_offsets=[0, 8, 9])}, "data_offsets"),
        ({"t": entry(data_offsets=[-8, 0])}, "data_offsets"),
        ({"t": entry(data_offsets=["0", "8"])}, "data_offsets"),
        ({"t": entry(shape=[3])}, "span 8 bytes, wanted 12"),
        ({"t": entry(dtype="F33")}, "unknown dtype"),
        ({"t": entry(dtype=["F32"])}, "unknown dtype"),
        ({"t": {"dtype": "F32"}}, "lacks"),
        ({"t": 1}, "lacks"),
        ({"t": entry(), "__metadata__": {"a": 1}}, "not a map of texts"),
        ({"t": entry(), "__metadata__": [1]}, "not a map of texts"),
        ({"a\x1b[31m": entry()}, "cannot be printed"),
        ({"\ud800": entry()}, "cannot be printed"),
        (b"[]", "does not start with"),
        (b'  {"t": 1}', "does not start with"),
        (b'{"t": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"t": "\xff"}', "not valid JSON"),
        (b'{"t": ' + b"1" * 5000 + b"}", "not valid JSON"),
        (b'{"t": NaN}', "lacks"),
    ],
)
def test_broken_header(header: dict[str, object] | bytes, says: str, tmp_path: Path) -> None:
    write_parts(tmp_path / WEIGHTS, header, bytes(8))
    with pytest.raises(InputError, match=re.escape(says)) as caught:
        read_header(tmp_path / WEIGHTS)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("raw", [b"\x01", b"\0" * 7, b"\0" * 8, b"\0" * 100, b"PK\x03\x04" * 20])
def test_not_safetensors_at_all(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).write_bytes(raw)
    with pytest.raises(InputError):
        read_header(tmp_path / WEIGHTS)


def test_header_over_the_limit_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / WEIGHTS, "wb") as file:
        file.write((100_000_001).to_bytes(8, "little"))
        file.truncate(200_000_000)  # sparse
    with pytest.raises(InputError, match="at most 100000000"):
        read_header(tmp_path / WEIGHTS)


Weight_map = dict[str, str]


def stray_single(folder: Path, weight_map: Weight_map) -> None:
    shutil.copy(folder / "model-00001-of-00002.safetensors", folder / WEIGHTS)


def unlisted(folder: Path, weight_map: Weight_map) -> None:
    write_index(folder, {k: v for k, v in weight_map.items() if k != "model.norm.weight"})


def wrong_file(folder: Path, weight_map: Weight_map) -> None:
    files = set(weight_map.values())
    write_index(folder, {k: (files - {v}).pop() for k, v in weight_map.items()})


def no_weight_map(folder: Path, weight_map: Weight_map) -> None:
    write_index(folder, None)


def number_for_a_file(folder: Path, weight_map: Weight_map) -> None:
    write_index(folder, dict.fromkeys(weight_map, 7))


def backslash(folder: Path, weight_map: Weight_map) -> None:
    write_index(folder, dict.fromkeys(weight_map, "..\\x.safetensors"))


def subfolder(folder: Path, weight_map: Weight_map) -> None:
    write_index(folder, dict.fromkeys(weight_map, "a/x.safetensors"))


def listed_twice(folder: Path, weight_map: Weight_map) -> None:
    (folder / INDEX).write_text('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}')


def no_index_and_a_shard_missing(folder: Path, weight_map: Weight_map) -> None:
    (folder / INDEX).unlink()
    (folder / "model-00001-of-00002.safetensors").unlink()


def no_index_and_two_sets(folder: Path, weight_map: Weight_map) -> None:
    (folder / INDEX).unlink()
    shutil.copy(folder / "model-00001-of-00002.safetensors", folder / "model-00001-of-00001.safetensors")


def dangling_shard(folder: Path, weight_map: Weight_map) -> None:
    (folder / "model-00001-of-00002.safetensors").unlink()
    (folder / "model-00001-of-00002.safetensors").symlink_to("nowhere")


def looping_shard(folder: Path, weight_map: Weight_map) -> None:
    (folder / "model-00001-of-00002.safetensors").unlink()
    (folder / "model-00001-of-00002.safetensors").symlink_to("model-00001-of-00002.safetensors")


def pipe(folder: Path, weight_map: Weight_map) -> None:
    (folder / "model-00001-of-00002.safetensors").unlink()
    os.mkfifo(folder / "model-00001-of-00002.safetensors")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (stray_single, "and also the shards"),
        (unlisted, "does not list 'model.norm.weight'"),
        (wrong_file, "which does not hold it"),
        (no_weight_map, "no weight_map"),
        (number_for_a_file, "the name of a .safetensors file"),
        (backslash, "outside its folder"),
        (subfolder, "outside its folder"),
        (listed_twice, "is there twice"),
        (no_index_and_a_shard_missing, "lacks 'model-00001-of-00002.safetensors'"),
        (no_index_and_two_sets, "sets"),
        (dangling_shard, "link to a file that is not there"),
        (looping_shard, "cannot be read"),
        (pipe, "not a regular file"),
    ],
)
def test_broken_index(damage: Callable[[Path, Weight_map], None], says: str, folder: Path) -> None:
    damage(folder, split(folder))
    with pytest.raises(InputError, match=re.escape(says)):
        open_checkpoint(folder)


def test_no_checkpoint_at_all(good: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "config.json").write_text("{}")
    for folder, says in (
        (tmp_path / "none", "does not exist"),
        (tmp_path / "file", "is a file"),
        (tmp_path, "no weights"),
    ):
        with pytest.raises(InputError, match=says):
            open_checkpoint(folder)
    shutil.copy(good / WEIGHTS, tmp_path / "adapter_model.safetensors")
    with pytest.raises(InputError, match="only 'adapter_model"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("config", "says"),
    [("", "is empty"), ("{", "not valid JSON"), ("nul", "not valid JSON"), ("{}" + " " * (5 << 20), "is larger than")],
)
def test_broken_config(config: str, says: str, folder: Path) -> None:
    (folder / "config.json").write_text(config)
    with pytest.raises(InputError, match=says):
        open_checkpoint(folder)


def test_damage_at_random_is_an_input_error(folder: Path) -> None:
    """2000 mutations of a good file: it opens, or InputError says why; nothing else ever comes out."""
    draw = random.Random(5)
    header, data = read_parts(folder / WEIGHTS)
    small = {name: header[name] for name in list(header)[:4]}
    text = json.dumps(small).encode()
    opened = 0
    for _ in range(2000):
        raw = bytearray(text)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(raw))
            match draw.randrange(4):
                case 0:
                    raw[at] = draw.randrange(256)
                case 1:
                    raw[at] = draw.choice(b'{}[]",:0123456789-.eE\\')
                case 2:
                    del raw[at : at + draw.randint(1, 8)]
                case _:
                    raw[at:at] = raw[at : at + draw.randint(1, 30)]
        length = len(raw) if draw.random() < 0.9 else draw.getrandbits(draw.randint(1, 64))
        write_parts(folder / WEIGHTS, bytes(raw), data[: draw.randrange(64)], length)
        try:
            for tensor in open_checkpoint(folder).tensors.values():
                tensor.load()
            opened += 1
        except InputError:
            continue
    assert opened < 2000
