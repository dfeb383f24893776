"""What hostile inputs and the fuzzer found, shortened: each is one error now, or read as what it is."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from convert.errors import ConvertError, InputError
from convert.files import open_regular
from convert.formats.gguf.reader import read_gguf_header
from convert.inspection.file import inspect_file
from convert.release.go_template import translated
from convert.source import pickle_scan
from tests.robust.cases import ggufs, graphs
from tests.robust.cases.base import make_special
from tests.robust.readers import READERS, meet

KINDS = ("pipe", "device", "folder", "socket", "loop", "dangling")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_not_read(kind: str, tmp_path: Path) -> None:
    """A pipe was waited for, and /dev/zero was read without an end."""
    path = make_special(tmp_path / "x", kind)
    with pytest.raises(OSError, match=r"pipe|device|directory|levels|No such"):
        open_regular(path)
    with pytest.raises(ConvertError):
        inspect_file(path)


@pytest.mark.parametrize("change", ["weights of an unknown type", "weights of no type", "a negative dimension"])
def test_weights_of_a_graph_that_nothing_holds(change: str, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(graphs.GRAPHS[change]())
    with pytest.raises(InputError, match="weight 'w'"):
        inspect_file(tmp_path / "x.onnx")


def test_an_input_of_an_unknown_type_is_shown(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(graphs.GRAPHS["an input of an unknown type"]())
    assert any("undefined" in line for line in inspect_file(tmp_path / "x.onnx").lines())


def test_a_tensor_of_no_dimension_is_one_value(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(ggufs.HEADERS["no dimension"])
    assert [tensor.shape for tensor in read_gguf_header(tmp_path / "x.gguf").tensors] == [(1,)]


@pytest.mark.parametrize("says", ["10**12 blocks", "-1 blocks"])
def test_more_layers_than_llama_cpp_has(says: str, tmp_path: Path) -> None:
    raw = ggufs._llama(**ggufs.SAYS[says])
    with pytest.raises(InputError):
        READERS["gguf, fitted"].read(_written(tmp_path / "x.gguf", raw))


def test_a_pickle_of_millions_of_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_scan, "MAX_OPCODES", 1000)
    for program in (b"\x80\x02" + b"N0" * 1000 + b".", b"\x80\x02" + b"N" * 999 + b"."):
        with pytest.raises(InputError, match="more than 1,000 steps"):
            pickle_scan.scan(_written(tmp_path / "x.bin", program * 5))


@pytest.mark.parametrize("template", ["{% for %}", "{{ raise_exception('no') }}", "{{ 1 / 0 }}"])
def test_a_template_that_cannot_be_compiled_is_not_translated(template: str) -> None:
    """Its syntax error ended a release."""
    assert translated(template, {}, adds_bos=False) is None


def _written(path: Path, raw: bytes) -> Path:
    path.write_bytes(raw)
    return path


MUTATED: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda raw: b"",
    "half": lambda raw: raw[: len(raw) // 2],
    "zeros": lambda raw: bytes(len(raw)),
    "ones": lambda raw: b"\xff" * len(raw),
    "a length that is none": lambda raw: struct.pack("<Q", (1 << 64) - 1) + raw[8:],
    "the same twice": lambda raw: raw + raw,
    "every seventh byte": lambda raw: bytes(b ^ 0x55 if i % 7 == 3 else b for i, b in enumerate(raw)),
}
QUICK = [name for name in READERS if name not in ("gguf, fitted", "gguf, a source", "image", "pickle")]


@pytest.mark.parametrize("name", QUICK)
def test_every_reader_stands_what_is_broken(name: str, tmp_path: Path) -> None:
    """The fuzzer without its fuzz: it holds the table of readers together, and what each of them may say."""
    for seed in READERS[name].seeds():
        for change in MUTATED.values():
            meet(READERS[name], change(seed), tmp_path)
    assert list(tmp_path.iterdir())
