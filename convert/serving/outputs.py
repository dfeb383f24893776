"""Which folders under a path are outputs that transformers.js opens, and in which dtypes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from convert.errors import InputError
from convert.formats.onnx.layouts import DTYPES, FOLDER
from convert.json_types import JsonDict

DEPTH = 3  # folders below the named one: out/RECIPE/STAGE
STEMS = ("decoder_model_merged", "model")  # what a graph that gives logits is called before its dtype's suffix
PARTS = {"decoder_model_merged": ("decoder_model_merged", "embed_tokens", "vision_encoder"), "model": ("model",)}
REMEDY = "a stage with `use: onnx` makes one; its `layout` is hub unless the recipe says otherwise"


@dataclass(frozen=True)
class Files:
    """What a dtype's graphs and weights take."""

    bytes: int
    largest: int  # bytes of the largest file, which a browser has to read as one


@dataclass(frozen=True)
class Served:
    """An output, under the name that the page has for it."""

    name: str  # its path below the named folder
    folder: Path
    images: bool
    dtypes: dict[str, Files] = field(default_factory=dict)

    def to_json(self) -> JsonDict:
        dtypes = {name: {"bytes": files.bytes, "largest": files.largest} for name, files in self.dtypes.items()}
        return {"name": self.name, "images": self.images, "dtypes": dtypes}


def find(out: Path) -> list[Served]:
    """The outputs in `out` and below, in order. Raises InputError where it is no folder."""
    if not out.is_dir():
        got = "is no folder" if out.exists() else "does not exist"
        raise InputError(str(out), got, "the folder of a run's outputs")
    return [served for folder in _folders(out, DEPTH) if (served := _served(folder, out)) is not None]


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    """The folder and those below it, hidden ones and links left out."""
    yield folder
    if depth:
        for path in sorted(folder.iterdir()):
            if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
                yield from _folders(path, depth - 1)


def _served(folder: Path, out: Path) -> Served | None:
    graphs = folder / FOLDER
    if not graphs.is_dir() or not _writes(folder / "config.json"):
        return None
    for stem in STEMS:
        found = {dtype: _files(graphs, PARTS[stem], suffix) for suffix, dtype in DTYPES.items()}
        dtypes = {dtype: files for dtype, files in found.items() if files is not None}
        if dtypes:
            images = any(graphs.glob("vision_encoder*.onnx"))
            name = folder.relative_to(out).as_posix()
            return Served(out.resolve().name if name == "." else name, folder.resolve(), images, dtypes)
    return None


def _writes(config: Path) -> bool:
    """Whether the model writes text: what the page asks of one. An encoder's graph is called model.onnx too."""
    try:
        said = json.loads(config.read_text(encoding="utf-8-sig"))
        classes = said.get("architectures") or ["ForCausalLM"]
        return str(classes[0]).endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))
    except (OSError, ValueError, AttributeError, LookupError, TypeError):
        return False


def _files(graphs: Path, parts: tuple[str, ...], suffix: str) -> Files | None:
    """None where a graph that a text needs is not there in this dtype: Whisper has no embed_tokens."""
    if not all((graphs / f"{part}{suffix}.onnx").is_file() for part in parts[:2]):
        return None
    names = [f"{part}{suffix}.onnx" for part in parts]
    sizes = [path.stat().st_size for name in names for path in graphs.glob(f"{name}*") if path.is_file()]
    return Files(sum(sizes), max(sizes))
