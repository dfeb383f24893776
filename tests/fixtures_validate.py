"""GGUF files to validate, good and broken, made from the tiny checkpoints. Import the fixtures you use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from convert.bundle import Artifact, Bundle, Role
from convert.formats.gguf.stage import STAGE as gguf_stage
from convert.progress import Silent
from convert.source.stage import STAGE as source_stage
from tests import tiny


def convert_tiny(make: Callable[..., Path], home: Path, types: list[str], **arguments: Any) -> dict[str, Bundle]:
    """The bundles of a source stage and of a gguf stage behind it, named as a recipe would."""
    checkpoint = make(home / "tiny", **arguments)
    source_out, gguf_out = home / "source", home / "gguf"
    source_out.mkdir()
    gguf_out.mkdir()
    source = source_stage.run(source_stage.Options(path=checkpoint), {}, source_out, Silent())
    options = gguf_stage.Options(types=types)
    return {"source": source, "gguf": gguf_stage.run(options, {"source": source}, gguf_out, Silent())}


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """A Qwen2 with a chat template, as F32 and Q8_0."""
    return convert_tiny(tiny.tiny_qwen2, tmp_path_factory.mktemp("text"), ["F32", "Q8_0"])


@pytest.fixture(scope="session")
def tiny_vision(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """A Qwen2.5-VL as F16 and its projector."""
    return convert_tiny(tiny.tiny_qwen2_5_vl, tmp_path_factory.mktemp("vision"), ["F16"])


def weights(bundles: Mapping[str, Bundle], type_: str) -> Artifact:
    return next(a for a in bundles["gguf"].of(Role.WEIGHTS) if a.type == type_)


def folder(bundles: Mapping[str, Bundle]) -> Path:
    """The source checkpoint."""
    return bundles["source"].of(Role.CONFIG)[0].path.parent


def rewritten(
    original: Path, copy: Path, change: Mapping[str, Any], tensor: Callable[[str, Any], Any] | None = None
) -> Path:
    """A GGUF file with some metadata changed (None drops a key), and maybe tensors."""
    import gguf

    reader = gguf.GGUFReader(original)
    writer = gguf.GGUFWriter(copy, "", use_temp_file=False)
    writer.kv_data[0].clear()
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or (key in change and change[key] is None):
            continue
        kind, sub = field.types[0], field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(key, change.get(key, field.contents()), kind, sub)
    for t in reader.tensors:
        data = t.data if tensor is None else tensor(t.name, t.data.copy())
        writer.add_tensor(t.name, data, raw_dtype=t.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return copy
