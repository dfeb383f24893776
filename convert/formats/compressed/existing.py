"""Checkpoints that somebody else made: quantized, as config.json says, or in floats (a merge, a fine-tune, a copy)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from convert.errors import InputError
from convert.formats.base import Found
from convert.formats.existing import CONFIG, artifact, names_in, with_companions
from convert.json_types import JsonObject
from convert.source.checkpoint import weight_files
from convert.source.safetensors import Entry, read_header
from convert.source.untrusted import inside, read_object, shown


def recognize(path: Path, projector: Path | None) -> Found | None:
    """The checkpoint in the folder `path`; None for one whose weights are none of safetensors. Raises InputError."""
    del projector
    names = names_in(path) if path.is_dir() else []
    if CONFIG not in names:
        return None
    words = _quantization(path)
    if words is not None:
        return _checkpoint(path, words)
    others = any(name.endswith((".onnx", ".engine")) for name in names)  # whose weights may be a checkpoint's files
    return None if others or not any(name.endswith(".safetensors") for name in names) else _floats(path)


@dataclass(frozen=True)
class Method:
    """A way to quantize that a runtime of ours runs."""

    kind: Callable[[JsonObject], str]  # "gptq/Int4", of quantization_config; empty for what is not run
    proof: Callable[[Entry], bool]  # whether a tensor is of this kind: one has to be


def _bits(words: JsonObject) -> str:
    bits = words.get("bits", words.get("w_bit"))
    return f"{words.get('quant_method')}/Int{bits}" if bits in (2, 3, 4, 8) else ""


def _preset(words: JsonObject) -> str:
    from convert.formats.compressed.straight import CompressedScheme
    from quantize.compressed import Fp8
    from quantize.presets import preset_of

    if (preset := preset_of(words)) is None:  # several schemes: of FP8 there is nothing more to know
        return "fp8/F8_E4M3" if words.get("format") == Fp8.FORMAT else ""
    scheme = CompressedScheme.of(preset)
    return f"{scheme.method}/{scheme.type}"


METHODS: Mapping[object, Method] = {
    "gptq": Method(_bits, lambda entry: entry.name.endswith(".qweight")),
    "awq": Method(_bits, lambda entry: entry.name.endswith(".qweight")),
    "compressed-tensors": Method(
        _preset, lambda entry: entry.dtype == "F8_E4M3" or entry.name.endswith(".weight_scale")
    ),
}
PLAIN = "checkpoint"  # the kind of what is not quantized; the source's own files are called safetensors
FLOATS = ("F32", "F16", "BF16")
RUN = "gptq or awq in 2, 3, 4 or 8 bits, or one scheme of compressed-tensors for all matrices: those are run here"


def _quantization(folder: Path) -> JsonObject | None:
    """config.json's quantization_config; None where there is none."""
    words = read_object(inside(folder, CONFIG)).get("quantization_config")
    if words is not None and not isinstance(words, dict):
        raise InputError(str(folder / CONFIG), f"quantization_config is {shown(words, 40)}", "a JSON object")
    return words


def _floats(folder: Path) -> Found:
    """A checkpoint that is not quantized, called by the type that most of its bytes have."""
    files, _ = weight_files(folder)
    size: Counter[str] = Counter()
    for entry in (entry for file in files for entry in read_header(file).entries):
        size[entry.dtype] += entry.stop - entry.start
    if not size or (type_ := size.most_common(1)[0][0]) not in FLOATS:
        got = f"holds weights of {', '.join(size) or 'no type'}, and config.json has no quantization_config"
        raise InputError(str(folder), got, f"weights of {' or '.join(FLOATS)}", "download config.json again")
    kinds = [f"{PLAIN}/{type_}", *([f"{PLAIN}-part/{type_}"] * (len(files) - 1))]
    weights = tuple(artifact(kind, file) for kind, file in zip(kinds, files, strict=True))
    return with_companions(folder, Found(weights, ""), f"a checkpoint in {type_}")


def _checkpoint(folder: Path, words: JsonObject) -> Found:
    said = words.get("quant_method")
    method = METHODS.get(said) if isinstance(said, str) else None
    kind = method.kind(words) if method else ""
    if method is None or not kind:
        details = "".join(f", {key} {shown(words[key], 40)}" for key in ("bits", "w_bit", "format") if key in words)
        raise InputError(str(folder), f"is quantized by {shown(said, 40)}{details}", RUN)
    files, _ = weight_files(folder)
    if not any(method.proof(entry) for file in files for entry in read_header(file).entries):
        got = f"has no tensor that is quantized, and config.json says {said}"
        raise InputError(str(folder), got, "weights that are quantized", "download it again")
    format_, _, type_ = kind.partition("/")
    kinds = [kind, *([f"{format_}-part/{type_}"] * (len(files) - 1))]
    weights = tuple(artifact(kind, file) for kind, file in zip(kinds, files, strict=True))
    return with_companions(folder, Found(weights, ""), f"a checkpoint quantized by {said}, {type_}")
