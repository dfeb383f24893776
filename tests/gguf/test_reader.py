"""Headers read back: equal to what the format's own reader sees, and never believed when they lie."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from convert.errors import InputError
from convert.formats.gguf.file_plan import FilePlan, TensorInfo, padded
from convert.formats.gguf.reader import read_gguf_header
from convert.gguf_field import Field, GGUFValueType
from convert.inspection.file import inspect_file
from quantize.blocks import TYPES
from tests import tiny
from tests.fixtures_gguf import convert, read_gguf

FIELDS = (
    Field.string("general.architecture", "lläma"),
    Field.uint8("a.u8", 255),
    Field.int32("a.i32", -5),
    Field.uint64("a.u64", 2**64 - 1),
    Field.float32("a.f32", 0.5),
    Field.boolean("a.bool", True),
    Field.strings("a.texts", ["a", "", "▁ü"]),
    Field.float32s("a.floats", [1.0, -2.5]),
    Field.booleans("a.bools", [True, False]),
    Field.array("a.none", [], GGUFValueType.INT32),
)
INFOS = (
    TensorInfo("norm", (5,), TYPES["F32"]),
    TensorInfo("weight", (3, 64), TYPES["Q8_0"]),
    TensorInfo("conv", (2, 3, 4, 4), TYPES["F16"]),
)


def plan(fields: tuple[Field, ...] = FIELDS, infos: tuple[TensorInfo, ...] = INFOS) -> bytes:
    header = FilePlan("x.gguf", "gguf/F16", fields, infos).header
    return header + b"".join(bytes(padded(i.nbytes)) for i in infos)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.gguf"
    path.write_bytes(plan())
    return path


def test_what_was_written_is_read(good: Path) -> None:
    header = read_gguf_header(good)
    assert header.fields == FIELDS
    assert [(t.name, t.shape, t.type, t.nbytes) for t in header.tensors] == [
        (i.name, i.shape, i.type, i.nbytes) for i in INFOS
    ]


def test_the_formats_own_reader_sees_the_same(good: Path) -> None:
    fields, tensors = read_gguf(good)
    assert fields["general.architecture"] == "lläma"
    assert fields["a.texts"] == ["a", "", "▁ü"]
    assert fields["a.floats"] == [1.0, -2.5]
    assert [(t.name, t.tensor_type.name, tuple(map(int, t.shape))[::-1]) for t in tensors.values()] == [
        (i.name, i.type.name, i.shape) for i in INFOS
    ]
    ours = {t.name: t.start for t in read_gguf_header(good).tensors}
    assert ours == {name: t.data_offset for name, t in tensors.items()}


def test_every_cut_is_one_clear_error(good: Path) -> None:
    raw = good.read_bytes()
    cut = good.with_name("cut.gguf")
    for length in [*range(0, len(raw) - 40, 7), len(raw) - 40]:  # the last tensor's padding may be missing
        cut.write_bytes(raw[:length])
        with pytest.raises(InputError):
            read_gguf_header(cut)


def test_any_flipped_byte_is_an_error_or_another_header(good: Path) -> None:
    """Nothing but InputError, whatever the header says."""
    raw = bytearray(good.read_bytes())
    flipped = good.with_name("flipped.gguf")
    refused = 0
    for at in range(4, len(plan()) - sum(padded(i.nbytes) for i in INFOS)):
        for value in (0x00, 0x7F, 0xFF):
            broken = bytearray(raw)
            broken[at] = value
            flipped.write_bytes(broken)
            try:
                inspect_file(flipped)
            except InputError:
                refused += 1
    assert refused > 500


U64 = struct.Struct("<Q").pack
HEAD = b"GGUF" + struct.pack("<I", 3)
LIES = {
    "garbage": b"GGUF" + bytes(range(256)),
    "not GGUF": b"ggml" + bytes(100),
    "empty": b"",
    "big-endian": b"GGUF" + struct.pack(">I", 3) + bytes(100),
    "more tensors than atoms": HEAD + U64(2**63) + U64(0) + bytes(100),
    "more fields than bytes": HEAD + U64(0) + U64(2**18) + bytes(100),
    "a key as long as the sea": HEAD + U64(0) + U64(1) + U64(2**62) + b"k",
    "an array of everything": HEAD + U64(0) + U64(1) + U64(1) + b"k" + struct.pack("<IIQ", 9, 10, 2**60),
    "an array of arrays": HEAD + U64(0) + U64(1) + U64(1) + b"k" + struct.pack("<IIQ", 9, 9, 1) + bytes(64),
    "an unknown value type": HEAD + U64(0) + U64(1) + U64(1) + b"k" + struct.pack("<I", 77) + bytes(64),
    "one field twice": plan((FIELDS[1], FIELDS[1])),
    "one tensor twice": plan(infos=(INFOS[0], INFOS[0])),
    "alignment 3": plan((Field.uint32("general.alignment", 3),)),
    "alignment 0": plan((Field.uint32("general.alignment", 0),)),
    "a shape no file holds": HEAD + U64(1) + U64(0) + U64(1) + b"t" + struct.pack("<I4QIQ", 4, *[2**40] * 4, 0, 0),
    "five dimensions": HEAD + U64(1) + U64(0) + U64(1) + b"t" + struct.pack("<I5QIQ", 5, *[1] * 5, 0, 0) + bytes(99),
    "an unknown tensor type": HEAD + U64(1) + U64(0) + U64(1) + b"t" + struct.pack("<IQIQ", 1, 1, 999, 0) + bytes(99),
    "rows of half a block": HEAD + U64(1) + U64(0) + U64(1) + b"t" + struct.pack("<IQIQ", 1, 16, 8, 0) + bytes(99),
    "data beyond the end": HEAD + U64(1) + U64(0) + U64(1) + b"t" + struct.pack("<IQIQ", 1, 8, 0, 2**40) + bytes(99),
    "data off the grid": HEAD + U64(1) + U64(0) + U64(1) + b"t" + struct.pack("<IQIQ", 1, 1, 0, 4) + bytes(99),
}


@pytest.mark.parametrize("name", LIES)
def test_hostile_headers_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(LIES[name])
    with pytest.raises(InputError) as caught:
        inspect_file(path)
    assert len(str(caught.value).splitlines()) == 1
    assert str(path) in str(caught.value)


def test_overlapping_tensors_are_refused(good: Path) -> None:
    raw = good.read_bytes()
    second = struct.pack("<IQ", TYPES["Q8_0"].id, padded(INFOS[0].nbytes))
    assert raw.count(second) == 1
    good.write_bytes(raw.replace(second, struct.pack("<IQ", TYPES["Q8_0"].id, 0)))
    with pytest.raises(InputError, match="overlaps"):
        read_gguf_header(good)


# ---- inspect


def test_inspect_adds_up(tmp_path: Path) -> None:
    folder = tiny.tiny_llama(tmp_path / "tiny")
    convert(folder, tmp_path / "out", "Q8_0")
    source = inspect_file(folder / "model.safetensors")
    made = inspect_file(next((tmp_path / "out").iterdir()))
    assert source.format == "safetensors"
    assert made.format == "GGUF 3"
    assert source.parameters == made.parameters > 50_000
    assert source.bits_per_weight == 16
    assert 8.5 < made.bits_per_weight < 9
    assert made.tensor_bytes < made.size
    assert [kind.type for kind in made.types] == ["Q8_0", "F32"]
    assert [kind.bits_per_weight for kind in made.types] == [8.5, 32]
    assert sum(kind.parameters for kind in made.types) == made.parameters
    assert made.metadata["general.architecture"] == "llama"
    short, long = "\n".join(made.lines()), "\n".join(made.lines(verbose=True))
    assert "Q8_0" in short
    assert "blk.0.ffn_up.weight" not in short
    assert "blk.0.ffn_up.weight  Q8_0  [128, 64]" in long


def test_inspect_shows_nothing_that_moves_the_cursor(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(plan((Field.string("a\x1b[2J", "\x1b]0;owned\x07"), Field.strings("b", ["\x1b[31m"]))))
    assert all(line.isprintable() for line in list(inspect_file(path).lines(verbose=True))[1:])


@pytest.mark.parametrize("name", ["model.bin", "model.safetensors", "model.gguf"])
def test_inspect_refuses_what_is_neither(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04" + bytes(64))
    with pytest.raises(InputError):
        inspect_file(tmp_path / name)
    with pytest.raises(InputError):
        inspect_file(tmp_path)
    with pytest.raises(InputError):
        inspect_file(tmp_path / "nothing.gguf")


@pytest.mark.parametrize(
    "start", [b"name: demo\nmodel: {path: a}\n", b'{"a": 1}       ', b"GG", b"\0" * 40, b"\x89PNG\r\n"]
)
def test_inspect_does_not_take_any_file_for_safetensors(start: bytes, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(start)
    with pytest.raises(
        InputError,
        match=r"recipe\.yaml: is not a file of a known format, wanted a \.safetensors, \.gguf or \.onnx file",
    ):
        inspect_file(path)


def test_inspect_knows_safetensors_by_another_name(tmp_path: Path) -> None:
    """The hub's cache keeps files under their hashes."""
    folder = tiny.tiny_llama(tmp_path / "tiny")
    blob = (folder / "model.safetensors").rename(tmp_path / "0123abcd")
    assert inspect_file(blob).format == "safetensors"
