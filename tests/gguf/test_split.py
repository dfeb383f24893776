"""Split files: llama.cpp's names and fields, whole tensors, no file above its limit, and llama.cpp loads them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from convert.architectures._graph_spec import OutputTensor
from convert.bundle import Artifact
from convert.errors import InputError
from convert.formats.gguf.constants import ALIGNMENT
from convert.formats.gguf.file_plan import FilePlan, TensorInfo
from convert.formats.gguf.shard_names import Split, is_later_shard, read_split, shard_names, size_in_bytes
from convert.formats.gguf.split import SplitFile, split_plans
from convert.formats.gguf.tensors import StreamedTensor
from convert.gguf_field import Field
from quantize.blocks import F32
from tests import tiny
from tests.fixtures_gguf import convert, read_gguf

ROWS = (5, 9, 1, 40, 3)


def tensors() -> list[StreamedTensor]:
    draw = np.random.default_rng(0)
    shapes = [(rows, 24) for rows in ROWS]
    values = [draw.standard_normal(shape, dtype=np.float32) for shape in shapes]
    return [StreamedTensor(OutputTensor(f"t.{i}.weight", v.shape), values=v) for i, v in enumerate(values)]


def planned(*, text: int = 100) -> FilePlan:
    fields = (Field.string("general.architecture", "llama"), Field.string("general.description", "x" * text))
    return FilePlan("Some-F32.gguf", "gguf/F32", fields, tuple(TensorInfo(t.name, t.shape, F32) for t in tensors()))


def write(folder: Path, plans: tuple[FilePlan, ...]) -> tuple[Artifact, ...]:
    with SplitFile(folder, plans) as file:
        for tensor in tensors():
            for values in tensor.chunks():
                file.write(values.data)
            file.end_tensor(ALIGNMENT)
    return file.artifacts


NBYTES = sum(i.nbytes for i in planned().infos)


def test_what_fits_is_one_file_as_ever() -> None:
    plan = planned()
    assert split_plans(plan, Split(NBYTES)) == (plan,)
    assert split_plans(plan, Split(tensors=len(ROWS))) == (plan,)
    assert len(split_plans(plan, Split(NBYTES - 1))) == 2


def test_names_fields_and_types_are_llama_cpps() -> None:
    """A split.no of another type keeps llama.cpp from loading the model."""
    plans = split_plans(planned(), Split(3900))
    assert [p.name for p in plans] == [f"Some-F32-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert {p.kind for p in plans} == {"gguf/F32"}
    for number, plan in enumerate(plans):
        split = [(f.key, f.value, f.type.name) for f in plan.fields[-3:]]
        assert split == [
            ("split.no", number, "UINT16"),
            ("split.tensors.count", len(ROWS), "INT32"),
            ("split.count", 3, "UINT16"),
        ]
    assert plans[0].fields[:-3] == planned().fields
    assert [len(p.fields) for p in plans[1:]] == [3, 3]


@pytest.mark.parametrize("most", [3840, 3936, 4200, 4500, 5000])
def test_tensors_are_no_more_than_asked_for_and_as_many_as_fit(most: int) -> None:
    plans = split_plans(planned(), Split(most))
    assert [i.name for p in plans for i in p.infos] == [i.name for i in planned().infos]
    sizes = [sum(i.nbytes for i in plan.infos) for plan in plans]
    assert max(sizes) <= most
    for size, following in zip(sizes, plans[1:], strict=False):
        assert size + following.infos[0].nbytes > most


# what llama-gguf-split makes of `Some-F32.gguf` below: --split-max-size 1M, --split-max-tensors 3
SHAPES = ((1000, 100), (7,), (1500, 100), (1, 100), (600, 100), (2400, 100), (33,))
LLAMA_GGUF_SPLITS = {
    "1MB": ("d31dad969ca273db", "bf99fe6a176fa454", "590f7bf025281764"),
    "3 tensors": ("d9f265c6387c3db3", "e537efb7196de52c", "d77f45cb9b4a2892"),
}


@pytest.mark.parametrize("asked", LLAMA_GGUF_SPLITS)
def test_the_files_are_those_of_llama_gguf_split(asked: str, tmp_path: Path) -> None:
    infos = tuple(TensorInfo(f"t.{i}.weight", shape, F32) for i, shape in enumerate(SHAPES))
    plan = FilePlan("Some-F32.gguf", "gguf/F32", planned().fields, infos)
    with SplitFile(tmp_path, split_plans(plan, read_split(asked))) as file:
        for number, info in enumerate(infos):
            file.write((np.arange(np.prod(info.shape), dtype=np.float32) * (number + 1)).data)
            file.end_tensor(ALIGNMENT)
    made = tuple(hashlib.sha256(a.path.read_bytes()).hexdigest()[:16] for a in file.artifacts)
    assert made == LLAMA_GGUF_SPLITS[asked]


def test_a_first_file_of_metadata_alone_is_kept(tmp_path: Path) -> None:
    names = [i.name for i in planned().infos]
    plans = split_plans(planned(), Split(keep=True), ((), names[:2], names[2:]))
    assert [[i.name for i in plan.infos] for plan in plans] == [[], names[:2], names[2:]]
    assert [f.key for f in plans[1].fields] == ["split.no", "split.count", "split.tensors.count"]
    assert [a.path.name for a in write(tmp_path, plans)] == [p.name for p in plans]


def test_a_tensor_that_no_file_can_hold_is_a_message() -> None:
    with pytest.raises(InputError, match=r"tensor t\.3\.weight of Some-F32\.gguf has 3,840 bytes") as caught:
        split_plans(planned(), Split(1500))
    assert "wanted at most 1,500; raise split" in str(caught.value)


def test_the_parts_hold_what_the_whole_file_holds(tmp_path: Path) -> None:
    artifacts = write(tmp_path, split_plans(planned(), Split(5000)))
    held = {}
    for artifact, plan in zip(artifacts, split_plans(planned(), Split(5000)), strict=True):
        assert (artifact.path.name, artifact.size) == (plan.name, plan.size)
        assert artifact.path.stat().st_size == plan.size
        held |= read_gguf(artifact.path)[1]
    assert list(held) == [t.name for t in tensors()]
    for tensor in tensors():
        np.testing.assert_array_equal(held[tensor.name].data.reshape(tensor.shape), tensor.values)


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write_and_fail(tmp_path)
    assert list(tmp_path.iterdir()) == []


def write_and_fail(folder: Path) -> None:
    with SplitFile(folder, split_plans(planned(), Split(3900))) as file:
        for _ in range(3):
            file.end_tensor(ALIGNMENT)
        assert len(list(folder.iterdir())) == 2
        raise ZeroDivisionError


def test_names_tell_the_parts() -> None:
    assert is_later_shard("Some-Q8_0-00002-of-00003.gguf")
    assert not is_later_shard("Some-Q8_0-00001-of-00003.gguf")
    assert not is_later_shard("Some-Q8_0.gguf")
    assert shard_names("a-00001-of-00002.gguf") == ("a-00001-of-00002.gguf", "a-00002-of-00002.gguf")
    assert shard_names("a.gguf") == ("a.gguf",)


def test_sizes() -> None:
    assert size_in_bytes("45G") == 45 * 10**9
    assert size_in_bytes("45GB") == 45 * 10**9
    assert size_in_bytes("500M") == size_in_bytes("0.5 GB") == 500 * 10**6
    assert size_in_bytes("1.5GiB") == 3 * 2**29
    assert size_in_bytes("40MiB") == 40 * 2**20
    assert read_split("45GB") == Split(45 * 10**9)
    assert read_split("128 tensors") == Split(tensors=128)
    assert read_split("keep") == Split(keep=True)
    for bad in ("45", "0G", "-1G", "45g", "45KB", "", "9999999G", "0 tensors", "0.0000000001GB"):
        with pytest.raises(ValueError, match="no size"):
            read_split(bad)


def test_llama_cpp_loads_the_parts_and_computes_the_same(tmp_path: Path) -> None:
    """The files of a whole model, cut at every fourth tensor or so, give the logits of the file they were cut from."""
    from validate.runtimes import llama_cpp

    source = tiny.tiny_qwen2(tmp_path / "Tiny", layers=2)
    (whole,) = convert(source, tmp_path / "whole", "F16").of("weights")
    first = cut(whole.path, tmp_path / "parts")
    assert len(list(first.parent.iterdir())) > 3
    tokens = list(range(5, 40))
    logits = []
    for path in (whole.path, first):
        with llama_cpp.RUNTIME.open(path) as session:
            logits.append(session.logits(tokens))
    np.testing.assert_array_equal(logits[0], logits[1])


def cut(path: Path, out: Path) -> Path:
    """A finished GGUF file in parts by SplitFile; the first of them."""
    from convert.formats.gguf.reader import read_gguf_header

    header = read_gguf_header(path)
    plan = FilePlan(
        path.name, "gguf/F16", header.fields, tuple(TensorInfo(t.name, t.shape, t.type) for t in header.tensors)
    )
    plans = split_plans(plan, Split(max(80_000, plan.size // 5)))
    out.mkdir()
    data = path.read_bytes()
    with SplitFile(out, plans) as file:
        for tensor in header.tensors:
            file.write(data[tensor.start : tensor.start + tensor.nbytes])
            file.end_tensor(ALIGNMENT)
    return file.artifacts[0].path
