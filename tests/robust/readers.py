"""Every reader of a stranger's bytes: what it is called with, and an honest file to begin from.

Used by the fuzzer, and by the tests of what it found. Only ConvertError may come of any bytes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from convert.errors import ConvertError
from tests import tiny

ALLOWED: tuple[type[Exception], ...] = (ConvertError,)


@dataclass(frozen=True)
class Reader:
    """`read` is given a file called `name` with the bytes in it; `seeds` are honest contents of it."""

    name: str
    read: Callable[[Path], object]
    seeds: Callable[[], list[bytes]]
    is_json: bool = False
    allowed: tuple[type[Exception], ...] = ALLOWED
    largest: int = 1 << 16  # bytes that are tried


@functools.cache
def model() -> Path:
    """A tiny checkpoint, for the whole process."""
    return tiny.tiny_llama(Path(tempfile.mkdtemp(prefix="readers-")) / "Tiny", layers=1)


def _of_model(name: str) -> Callable[[], list[bytes]]:
    return lambda: [(model() / name).read_bytes()]


def _plans(path: Path) -> None:
    """The file in the place of the model's own, as the GGUF stage plans with it."""
    from convert.formats.gguf.stage import STAGE
    from convert.source.stage import STAGE as SOURCE

    home = path.parent / "model"
    home.mkdir(exist_ok=True)
    for other in model().iterdir():
        if other.name != path.name and not (home / other.name).exists():
            (home / other.name).hardlink_to(other)
    (home / path.name).write_bytes(path.read_bytes())
    options = SOURCE.Options(path=home)
    if not SOURCE.check(options, {}):
        STAGE.check(STAGE.Options(types=["F16"]), {"source": SOURCE.forecast(options, {})})


def _inspects(path: Path) -> None:
    from convert.inspection.file import inspect_file

    list(inspect_file(path).lines(verbose=True))


def _fits(path: Path) -> None:
    from convert.estimate.setting import Setting
    from convert.estimate.speed import Bandwidth
    from convert.inspection.fit import Budget, fit
    from convert.inspection.fit_model import read_model
    from convert.progress import Silent
    from validate.kv_cache import CacheTypes

    found = read_model(path, mmproj=None, images=False, progress=Silent())
    fit(found, Setting(4096, CacheTypes.parse("f16")), Budget(None, 8 << 30, 0), Bandwidth(None, None))


def _gguf_source(path: Path) -> None:
    from convert.formats.gguf.checkpoint_stage import STAGE
    from convert.source.stage import STAGE as SOURCE

    options = SOURCE.Options(path=path)
    if not SOURCE.check(options, {}):
        STAGE.check(STAGE.Options(allow_requantize=True), {"source": SOURCE.forecast(options, {})})


def _adapter(path: Path) -> None:
    from convert.source.adapter import read_adapter

    read_adapter(path.parent)


def _list(path: Path) -> None:
    from convert.batch.models import Found, add_list

    add_list(Found(), path)


def _sums(path: Path) -> None:
    from convert.release.sums import read_sums

    read_sums(path.read_bytes().decode("utf-8"))


def _structure(path: Path) -> None:
    from convert.release import structure

    structure.problems(path)
    structure.parts(path)


def _trainer(path: Path) -> None:
    from convert.source import distcp

    distcp.tensors_of(path.parent)


def _manifest(path: Path) -> None:
    from convert.bundle import Manifest

    Manifest.read(path.parent)


def _of(place: str) -> Callable[[Path], object]:
    """`package.module:function`, imported when it is called."""

    def read(path: Path) -> object:
        import importlib

        module, name = place.split(":")
        return getattr(importlib.import_module(module), name)(path)

    return read


@functools.cache
def _gguf() -> bytes:
    from tests.fixtures_gguf import convert

    out = Path(tempfile.mkdtemp(prefix="readers-gguf-"))
    bundle = convert(model(), out, "F16", tokenizer_check="warn")
    return next(file.path.read_bytes() for _, file in bundle.artifacts() if file.path.suffix == ".gguf")


def _pickles() -> list[bytes]:
    import io
    import pickle

    import torch

    made = []
    for new in (True, False):
        raw = io.BytesIO()
        torch.save({"a": torch.ones(4), "b": torch.ones(2).half()}, raw, _use_new_zipfile_serialization=new)
        made.append(raw.getvalue())
    return [*made, pickle.dumps({"a": [1, "b"]}, protocol=2), pickle.dumps({"a": [1, "b"]}, protocol=4)]


def _onnx() -> list[bytes]:
    from tests.robust.cases.graphs import _external, _good

    return [_good(), _external(location="x", offset="0", length="4")]


def _imatrices() -> list[bytes]:
    import struct

    entry = struct.pack("<i", 3) + b"a.b" + struct.pack("<ii2f", 1, 2, 0.5, 0.25)
    return [struct.pack("<i", 1) + entry + struct.pack("<ii", 1, 1) + b"x"]


def _text(*texts: str) -> Callable[[], list[bytes]]:
    return lambda: [text.encode() for text in texts]


TALK = '{"messages": [{"role": "user", "content": "a"}]}\n'
RECIPE = "name: r\nmodel: {path: Tiny}\nstages:\n  gguf: {use: gguf, types: [F16]}\nvalidate: {tokens: 64}\n"
ADAPTER = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "base_model_name_or_path": "x"}
RELEASE = {"schema_version": 1, "self": "", "files": [{"path": "a", "size": 1, "sha256": "0" * 64, "parts": []}]}
MANIFEST = {
    **{"schema_version": 2, "stage": "gguf", "use": "gguf", "key": "k", "ingredients": {}, "recipe_sha256": ""},
    **{"model": {"name": "x", "hub": "", "revision": ""}},
    "artifacts": [{"role": "weights", "kind": "gguf/F16", "path": "x.gguf", "size": 1, "sha256": ""}],
}
BATCH = "recipes: [r.yaml]\nmodels: [a/b@main, {model: x, name: y}]\nkeep: outputs\n"
VALUES = (*ALLOWED, ValueError)  # what its caller takes for "not one of ours"

READERS: Mapping[str, Reader] = {
    "safetensors": Reader("x.safetensors", _inspects, _of_model("model.safetensors")),
    "gguf": Reader("x.gguf", _inspects, lambda: [_gguf()], largest=1 << 18),
    "gguf, fitted": Reader("x.gguf", _fits, lambda: [_gguf()], largest=1 << 18),
    "gguf, a source": Reader("x.gguf", _gguf_source, lambda: [_gguf()], largest=1 << 18),
    "gguf, structure": Reader("x.gguf", _structure, lambda: [_gguf()], largest=1 << 18),
    "onnx": Reader("x.onnx", _inspects, _onnx),
    "onnx, judged": Reader("x.onnx", _of("convert.source.onnx_graph:read_graph"), _onnx),
    "onnx, structure": Reader("x.onnx", _structure, _onnx),
    "pickle": Reader("pytorch_model.bin", _of("convert.source.pickle_scan:scan"), _pickles),
    "trainer's index": Reader(".metadata", _trainer, _pickles),
    "imatrix": Reader("x.dat", _of("convert.formats.gguf.imatrix:read_imatrix"), _imatrices),
    "json": Reader("x.json", _of("convert.source.untrusted:read_object"), _of_model("config.json")),
    "config": Reader("config.json", _plans, _of_model("config.json"), is_json=True),
    "tokenizer": Reader("tokenizer.json", _plans, _of_model("tokenizer.json"), is_json=True, largest=1 << 17),
    "tokenizer config": Reader("tokenizer_config.json", _plans, _of_model("tokenizer_config.json"), is_json=True),
    "generation config": Reader("generation_config.json", _plans, _of_model("generation_config.json"), is_json=True),
    "index": Reader("model.safetensors.index.json", _plans, _text('{"weight_map": {"a": "model.safetensors"}}'), True),
    "sentencepiece": Reader(
        "x.model",
        _of("convert.formats.gguf.sentencepiece:read_sentencepiece"),
        lambda: [b"\x0a\x0b\x0a\x02ab\x15\x00\x00\x80\x3f\x18\x01\x12\x04\x18\x01\x20\x08\x1a\x06\x0a\x04nmt_"],
    ),
    "ranks": Reader("x.tiktoken", _of("convert.formats.gguf.vocabularies.ranks:read_ranks"), _text("YQ== 0\nYg== 1\n")),
    "trie": Reader("x.txt", _of("convert.formats.gguf.vocabularies.trie:read_trie"), _text("1 'a' 1\n2 b'\\xff' 1\n")),
    "card": Reader(
        "README.md", _of("convert.source.card:read_card"), _text("---\nlicense: mit\ntags: [a]\n---\n# A\n")
    ),
    "recipe": Reader("r.yaml", _of("convert.recipe:load_recipe"), _text(RECIPE)),
    "batch": Reader("b.yaml", _of("convert.batch.request:from_file"), _text(BATCH)),
    "list of texts": Reader("m.txt", _list, _text("a/b\n# x\nTiny\n")),
    "list of columns": Reader("m.csv", _list, _text("model,name\na/b,c\n")),
    "list of JSON": Reader("m.jsonl", _list, _text('{"model": "a/b", "name": "c"}\n')),
    "adapter": Reader("adapter_config.json", _adapter, lambda: [json.dumps(ADAPTER).encode()], is_json=True),
    "manifest": Reader(
        "manifest.json",
        _manifest,
        lambda: [json.dumps(MANIFEST).encode()],
        is_json=True,
        allowed=VALUES,
    ),
    "release": Reader(
        "release.json", _of("convert.release.sums:read_release"), lambda: [json.dumps(RELEASE).encode()], True
    ),
    "sums": Reader("SHA256SUMS", _sums, _text(f"{'0' * 64}  a.txt\n"), allowed=VALUES),
    "report": Reader(
        "report.json", _of("convert.validation.read_report:read_report"), _text('{"schema_version": 1}'), True
    ),
    "conversations": Reader("x.jsonl", _of("convert.calibration.rows:read_conversations"), _text(TALK)),
    "image": Reader("x.png", _of("validate.vision:read_image"), lambda: [_png()], allowed=VALUES),
}


def _png() -> bytes:
    import io

    from PIL import Image

    raw = io.BytesIO()
    Image.new("RGB", (4, 4), (1, 2, 3)).save(raw, "png")
    return raw.getvalue()


def meet(reader: Reader, raw: bytes, folder: Path) -> None:
    """Have the bytes read; raises what is not allowed."""
    path = folder / reader.name
    path.write_bytes(raw)
    with contextlib.suppress(*reader.allowed):
        reader.read(path)
