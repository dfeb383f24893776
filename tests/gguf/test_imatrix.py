"""Importance matrices: both formats, what llama-quantize makes of them, files that lie, and whether they fit."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from convert.errors import InputError
from convert.formats.gguf.file_plan import FilePlan, TensorInfo, padded
from convert.formats.gguf.imatrix import (
    MODEL,
    Imatrix,
    ImatrixEntry,
    check_imatrix,
    coverage,
    imatrix_plan,
    read_imatrix,
    write_imatrix,
)
from convert.gguf_field import Field
from convert.inspection.file import inspect_file
from quantize.blocks import TYPES
from tests.fixtures_gguf import read_gguf

KEY = "5" * 64
Q, UP, HEAD = "blk.0.attn_q.weight", "blk.0.ffn_up_exps.weight", "output.weight"
SHAPES = {"token_embd.weight": (96, 8), "blk.0.attn_norm.weight": (8,), Q: (12, 8), UP: (3, 16, 8), HEAD: (96, 8)}


def entry(experts: int, columns: int, counts: list[float], seed: int = 0) -> ImatrixEntry:
    values = np.random.default_rng(seed).random((experts, columns), np.float32) * 100
    return ImatrixEntry(values, np.array(counts, np.float32))


def matrix(model: str = KEY) -> Imatrix:
    entries = {UP: entry(3, 8, [7, 0, 5], 1), Q: entry(1, 8, [12])}
    return Imatrix(entries, ("text.txt", "ü.txt"), 3, 4, model)


def legacy(*entries: tuple[str, int, list[float]], end: bytes = b"") -> bytes:
    raw = struct.pack("<i", len(entries))
    for name, calls, values in entries:
        text = name.encode()
        raw += struct.pack("<i", len(text)) + text + struct.pack("<ii", calls, len(values))
        raw += np.array(values, "<f4").tobytes()
    return raw + end


def same(a: Imatrix, b: Imatrix) -> None:
    assert (a.datasets, a.chunk_count, a.chunk_size, a.model) == (b.datasets, b.chunk_count, b.chunk_size, b.model)
    assert sorted(a.entries) == sorted(b.entries)
    for name in a.entries:
        np.testing.assert_array_equal(a.entries[name].values, b.entries[name].values)
        np.testing.assert_array_equal(a.entries[name].counts, b.entries[name].counts)


# ---- the file


@pytest.mark.parametrize("model", [KEY, ""])
def test_what_was_written_is_read(tmp_path: Path, model: str) -> None:
    artifact = write_imatrix(tmp_path / "a.gguf", matrix(model))
    same(read_imatrix(artifact.path), matrix(model))
    assert (artifact.kind, artifact.size) == ("gguf/imatrix", artifact.path.stat().st_size)


def test_equal_matrices_give_equal_bytes_in_whatever_order(tmp_path: Path) -> None:
    turned = Imatrix(dict(reversed(matrix().entries.items())), ("text.txt", "ü.txt"), 3, 4, KEY)
    a, b = write_imatrix(tmp_path / "a.gguf", matrix()), write_imatrix(tmp_path / "b.gguf", turned)
    assert a.sha256 == b.sha256


def test_the_size_is_known_before(tmp_path: Path) -> None:
    plan = imatrix_plan("a.gguf", {UP: (3, 8), Q: (1, 8)}, matrix())
    assert plan.size == write_imatrix(tmp_path / "a.gguf", matrix()).size


def test_the_file_is_as_llama_imatrix_writes_it(tmp_path: Path) -> None:
    """Keys, types, names, order and dimensions of tools/imatrix/imatrix.cpp, save_imatrix; ours adds one key."""
    fields, tensors = read_gguf(write_imatrix(tmp_path / "a.gguf", matrix()).path)
    ours = {k: v for k, v in fields.items() if not k.startswith("GGUF.")}
    assert ours == {
        "general.type": "imatrix",
        "imatrix.datasets": ["text.txt", "ü.txt"],
        "imatrix.chunk_count": 3,
        "imatrix.chunk_size": 4,
        MODEL: KEY,
    }
    # GGUF's order, fastest first
    assert [(name, t.tensor_type.name, list(map(int, t.shape))) for name, t in tensors.items()] == [
        (f"{Q}.in_sum2", "F32", [8]),
        (f"{Q}.counts", "F32", [1]),
        (f"{UP}.in_sum2", "F32", [8, 3]),
        (f"{UP}.counts", "F32", [1, 3]),
    ]
    np.testing.assert_array_equal(tensors[f"{UP}.in_sum2"].data, matrix().entries[UP].values)


def test_inspect_shows_it(tmp_path: Path) -> None:
    lines = list(inspect_file(write_imatrix(tmp_path / "a.gguf", matrix()).path).lines())
    assert any("imatrix.chunk_count = 3" in line for line in lines)


def test_a_legacy_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.dat"
    end = struct.pack("<ii", 3, 8) + b"wiki.txt"
    path.write_bytes(legacy((Q, 4, [4.0, 8, 0, 2]), (UP, 0, [1.0, 2, 3]), end=end))
    read = read_imatrix(path)
    assert (read.datasets, read.chunk_count, read.chunk_size, read.model) == (("wiki.txt",), 3, 0, "")
    assert read.weights(Q, 4).tolist() == [1, 2, 0, 0.5]  # type: ignore[union-attr]
    assert read.weights(UP, 3).tolist() == [1, 2, 3]  # type: ignore[union-attr]


@pytest.mark.parametrize("end", [b"", struct.pack("<i", 7)])
def test_older_legacy_files_say_less_at_their_end(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "a.dat"
    path.write_bytes(legacy((Q, 4, [4.0]), end=end))
    assert read_imatrix(path).chunk_count == (7 if end else 0)


# ---- what encoders get


def test_weights_are_mean_squares_divided_as_llama_quantize_does() -> None:
    got = matrix().weights(Q, 8)
    assert got is not None
    assert (got.dtype, got.shape) == (np.float32, (8,))
    np.testing.assert_array_equal(got, matrix().entries[Q].values[0] / np.float32(12))


def test_an_expert_without_data_weighs_all_alike() -> None:
    got, entry = matrix().weights(UP, 8), matrix().entries[UP]
    assert got is not None
    np.testing.assert_array_equal(got[0], entry.values[0] / np.float32(7))
    np.testing.assert_array_equal(got[1], np.ones(8))
    np.testing.assert_array_equal(got[2], entry.values[2] / np.float32(5))


def test_experts_in_one_row_with_one_count() -> None:
    """As legacy files have them."""
    flat = Imatrix({UP: ImatrixEntry(np.arange(24, dtype=np.float32)[None], np.array([2], np.float32))})
    got = flat.weights(UP, 8)
    assert got is not None
    np.testing.assert_array_equal(got, np.arange(24).reshape(3, 8) / 2)
    assert check_imatrix(flat, SHAPES) == []


def test_no_entry_no_weights() -> None:
    assert matrix().weights(HEAD, 8) is None


def test_weights_for_another_width_are_refused() -> None:
    with pytest.raises(InputError, match="another model"):
        matrix().weights(Q, 5)


# ---- files that lie


def write_tensors(
    path: Path, tensors: dict[str, tuple[str, np.ndarray]], fields: tuple[Field, ...] | None = None
) -> Path:
    if fields is None:
        fields = imatrix_plan("x", {}, matrix()).fields
    infos = tuple(TensorInfo(name, values.shape, TYPES[kind]) for name, (kind, values) in tensors.items())
    body = b"".join(v.tobytes() + bytes(padded(v.nbytes) - v.nbytes) for _, v in tensors.values())
    path.write_bytes(FilePlan("x", "x", fields, infos).header + body)
    return path


F32 = np.float32
GOOD = {f"{Q}.in_sum2": ("F32", np.ones(8, F32)), f"{Q}.counts": ("F32", np.ones(1, F32))}
BAD_TENSORS = {
    "no counts": {f"{Q}.in_sum2": ("F32", np.ones(8, F32))},
    "no sums": {f"{Q}.counts": ("F32", np.ones(1, F32))},
    "a weight": GOOD | {Q: ("F32", np.ones(8, F32))},
    "half precision": GOOD | {f"{Q}.in_sum2": ("F16", np.ones(8, np.float16))},
    "counts that do not divide": GOOD | {f"{Q}.counts": ("F32", np.ones(3, F32))},
    "no counts at all": GOOD | {f"{Q}.counts": ("F32", np.ones(0, F32))},
    "NaN": GOOD | {f"{Q}.in_sum2": ("F32", np.full(8, np.nan, F32))},
    "infinity": GOOD | {f"{Q}.in_sum2": ("F32", np.full(8, np.inf, F32))},
    "a negative sum of squares": GOOD | {f"{Q}.in_sum2": ("F32", np.full(8, -1, F32))},
    "a negative count": GOOD | {f"{Q}.counts": ("F32", np.full(1, -1, F32))},
    "NaN calls": GOOD | {f"{Q}.counts": ("F32", np.full(1, np.nan, F32))},
    "a count like no number of tokens": GOOD | {f"{Q}.counts": ("F32", np.full(1, 1e30, F32))},
    "nothing": {},
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_bad_entries_are_one_clear_error(tmp_path: Path, case: str) -> None:
    same_but_good = write_tensors(tmp_path / "good.gguf", GOOD)
    assert read_imatrix(same_but_good).entries.keys() == {Q}
    with pytest.raises(InputError) as caught:
        read_imatrix(write_tensors(tmp_path / "bad.gguf", BAD_TENSORS[case]))
    assert str(tmp_path / "bad.gguf") in str(caught.value)


@pytest.mark.parametrize(
    ("key", "instead"),
    [
        ("general.type", Field.string("general.type", "model")),
        ("general.type", None),
        ("imatrix.datasets", None),
        ("imatrix.datasets", Field.string("imatrix.datasets", "text.txt")),
        ("imatrix.chunk_count", Field.boolean("imatrix.chunk_count", True)),
        ("imatrix.chunk_size", None),
        (MODEL, Field.uint32(MODEL, 7)),
    ],
)
def test_bad_metadata_is_one_clear_error(tmp_path: Path, key: str, instead: Field | None) -> None:
    kept = [f for f in imatrix_plan("x", {}, matrix()).fields if f.key != key]
    fields = (*kept, *([instead] if instead else []))
    with pytest.raises(InputError):
        read_imatrix(write_tensors(tmp_path / "bad.gguf", GOOD, fields))


def test_every_cut_is_an_error(tmp_path: Path) -> None:
    raw = write_imatrix(tmp_path / "a.gguf", matrix()).path.read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in range(0, len(raw) - 32, 5):  # the last tensor's padding may be missing
        cut.write_bytes(raw[:length])
        with pytest.raises(InputError):
            read_imatrix(cut)


def test_any_changed_byte_is_an_error_or_another_matrix(tmp_path: Path) -> None:
    raw = write_imatrix(tmp_path / "a.gguf", matrix()).path.read_bytes()
    _nothing_but_input_errors(tmp_path / "changed.gguf", raw, step=5)


def test_any_changed_byte_of_a_legacy_file_too(tmp_path: Path) -> None:
    raw = legacy((Q, 4, [4.0, 8]), (UP, 1, [1.0]), end=struct.pack("<ii", 3, 2) + b"ab")
    _nothing_but_input_errors(tmp_path / "changed.dat", raw)


def _nothing_but_input_errors(path: Path, raw: bytes, step: int = 1) -> None:
    refused = 0
    for at in range(0, len(raw), step):
        for value in (0x00, 0x7F, 0x80, 0xFF):
            changed = bytearray(raw)
            changed[at] = value
            path.write_bytes(changed)
            try:
                read_imatrix(path)
            except InputError:
                refused += 1
    assert refused > len(raw) // step // 2


BAD_LEGACY = {
    "no entries": struct.pack("<i", 0),
    "less than none": struct.pack("<i", -3),
    "entries without end": struct.pack("<i", (1 << 31) - 1) * 40,
    "a name longer than the file": struct.pack("<ii", 1, 4000) + b"blk",
    "a name of negative length": struct.pack("<ii", 1, -1) + bytes(64),
    "values longer than the file": struct.pack("<ii", 1, 1) + b"a" + struct.pack("<ii", 1, 1 << 29) + bytes(64),
    "no values": legacy((Q, 1, [])),
    "NaN": legacy((Q, 1, [float("nan")])),
    "negative": legacy((Q, 1, [-1.0])),
    "calls below none": legacy((Q, -1, [1.0])),
    "one name twice": legacy((Q, 1, [1.0]), (Q, 1, [1.0])),
    "more after the end": legacy((Q, 1, [1.0]), end=struct.pack("<ii", 1, 1) + b"ab"),
    "a text": b"Once upon a time there was a matrix. " * 9,
    "empty": b"",
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64,
}


@pytest.mark.parametrize("case", BAD_LEGACY)
def test_what_is_no_legacy_file_is_one_clear_error(tmp_path: Path, case: str) -> None:
    path = tmp_path / "a.dat"
    path.write_bytes(BAD_LEGACY[case])
    with pytest.raises(InputError) as caught:
        read_imatrix(path)
    assert str(caught.value).isprintable()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(InputError, match=r"does not exist|cannot be read"):
            read_imatrix(path)


# ---- does it fit


def test_a_matrix_of_the_model_fits() -> None:
    assert check_imatrix(matrix(), SHAPES, KEY) == []


def test_a_matrix_of_other_weights_is_a_problem() -> None:
    (problem,) = check_imatrix(matrix("6" * 64), SHAPES, KEY)
    assert "was made from other weights" in str(problem)
    assert check_imatrix(matrix(""), SHAPES, KEY) == []
    assert check_imatrix(matrix(), SHAPES, "") == []  # not hashed yet


def test_a_matrix_of_other_sizes_is_one_problem() -> None:
    (problem,) = check_imatrix(matrix(), SHAPES | {Q: (12, 16), UP: (4, 16, 8)}, KEY)
    assert f"{Q} 8 values where it has 16" in str(problem)
    assert f"{UP} 24 values where it has 32" in str(problem)


def test_a_matrix_of_another_architecture_is_a_problem() -> None:
    (problem,) = check_imatrix(matrix(), {"enc.blk.0.attn.weight": (8, 8)}, KEY)
    assert "no tensor of this model" in str(problem)


def test_an_embedding_of_another_size_is_left_alone() -> None:
    """As llama-quantize does: some files have what a tied head was multiplied with, some a lookup."""
    with_embedding = Imatrix({**matrix().entries, "token_embd.weight": entry(1, 5, [1])})
    assert check_imatrix(with_embedding, SHAPES) == []
    assert with_embedding.weights("token_embd.weight", 8) is None


def test_coverage_names_what_has_no_data() -> None:
    first, *rest = coverage(matrix(""), SHAPES)
    assert first == "imatrix: 2 of 3 matrices, 3 chunks of 4 tokens from 'text.txt', 'ü.txt'"
    assert rest[0] == "imatrix: no data for 'output.weight'"
    assert rest[1] == f"imatrix: {UP}: 1 of 3 experts have no data: '1'"
    assert "does not say which weights" in rest[2]
    assert list(coverage(matrix(), SHAPES))[3:] == []
    stray = list(coverage(matrix(), {Q: SHAPES[Q]}))
    assert stray[1:] == [f"imatrix: not in this file: '{UP}'"]
