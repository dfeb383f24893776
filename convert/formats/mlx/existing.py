"""MLX folders that somebody else made: mlx-community's, mlx_lm.convert's."""

from __future__ import annotations

from pathlib import Path

from convert.errors import InputError
from convert.formats.base import Found
from convert.formats.existing import CONFIG, artifact, names_in, with_companions
from convert.json_types import JsonObject
from convert.source.checkpoint import weight_files
from convert.source.safetensors import read_header
from convert.source.untrusted import inside, read_object, shown
from quantize.mlx_layout import AFFINE, DEFAULT, Layout

KEY = "quantization"


def recognize(path: Path, projector: Path | None) -> Found | None:
    """The folder whose config.json has MLX's word for how it is quantized; None for another. Raises InputError."""
    del projector
    names = names_in(path) if path.is_dir() else []
    if CONFIG not in names:
        return None
    words = read_object(inside(path, CONFIG)).get(KEY)
    if not isinstance(words, dict) or "group_size" not in words:
        return None
    files, _ = weight_files(path)
    if not any(entry.name.endswith(".scales") for file in files for entry in read_header(file).entries):
        got = f"has no tensor that is quantized, and config.json says {shown(words, 60)}"
        raise InputError(str(path), got, "weights that are quantized", "download it again")
    type_ = type_of(words)
    kinds = [f"mlx/{type_}", *([f"mlx-part/{type_}"] * (len(files) - 1))]
    weights = tuple(artifact(kind, file) for kind, file in zip(kinds, files, strict=True))
    return with_companions(path, Found(weights, ""), f"an MLX folder, {type_}")


def type_of(words: JsonObject) -> str:
    """As artifact kinds say it: of several layouts the one that most matrices have."""
    layout = layout_of(words)
    group = "" if layout.group_size == DEFAULT[1] else f"-g{layout.group_size}"
    return f"{layout.bits}bit{group}" if layout.mode == AFFINE else layout.mode


def layout_of(words: JsonObject) -> Layout:
    """The layout that config.json's words say. Raises InputError for one that MLX does not have."""
    mode, bits, group = words.get("mode", AFFINE), words.get("bits"), words.get("group_size")
    if isinstance(mode, str) and isinstance(bits, int) and isinstance(group, int):
        try:
            return Layout(mode, bits, group)
        except ValueError as error:
            raise InputError("config.json", f"quantization says {error}", "a layout of MLX") from None
    raise InputError("config.json", f"quantization says {shown(words, 60)}", "bits, group_size and mode")
