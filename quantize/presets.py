"""The schemes that llm-compressor names, and how config.json tells readers of one. Data.

`quantization_config` is what compressed-tensors' own QuantizationConfig writes. Source: compressed-tensors 0.20,
quantization/quant_scheme.py, PRESET_SCHEMES.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from quantize.compressed import Encoding, Fp8, Int8, Mxfp4, Nvfp4, Packed

QUANT_METHOD = "compressed-tensors"
Args = Mapping[str, object]


@dataclass(frozen=True)
class Preset:
    """A scheme: how weights are stored, and how inputs are rounded while the model runs (None: not at all)."""

    name: str
    encoding: Encoding
    inputs: Args | None = None

    @property
    def bits(self) -> int:
        """Of a weight."""
        return self.encoding.bits


_FLOAT8: Args = {"type": "float", "num_bits": 8, "dynamic": True}
_BY_TENSOR: Args = {**_FLOAT8, "strategy": "tensor"}
_BY_TOKEN: Args = {**_FLOAT8, "strategy": "token"}
_BY_GROUP: Args = {**_FLOAT8, "strategy": "group", "group_size": 128}
_INT_BY_TOKEN: Args = {"type": "int", "num_bits": 8, "dynamic": True, "strategy": "token"}
_NVFP4: Args = {**Nvfp4(True).args, "num_bits": 4, "dynamic": "local", "observer": "static_minmax"}
_MXFP4: Args = {**Mxfp4().args, "num_bits": 4, "dynamic": True}

PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("FP8_DYNAMIC", Fp8("channel"), _BY_TOKEN),
        Preset("FP8_BLOCK", Fp8("block"), _BY_GROUP),
        Preset("W8A16", Packed(8, 128)),
        Preset("W8A8", Int8(), _INT_BY_TOKEN),
        Preset("W4A16", Packed(4, 128)),
        Preset("NVFP4", Nvfp4(inputs=True), _NVFP4),
        Preset("NVFP4A16", Nvfp4(inputs=False)),
        Preset("MXFP4", Mxfp4(), _MXFP4),
        Preset("MXFP4A16", Mxfp4()),
    )
}
FP8_TENSOR = Preset("FP8_TENSOR", Fp8("tensor"), _BY_TENSOR)
"""No name of llm-compressor's: a scale a matrix, and one for all the tokens read at once."""

KNOWN: tuple[Encoding, ...] = (
    *(Fp8(strategy) for strategy in ("tensor", "channel", "block")),
    Int8(),
    Nvfp4(inputs=True),
    Mxfp4(),
)


def with_group(preset: Preset, group_size: int) -> Preset:
    """The preset with other groups of columns, -1 for one a row. ValueError where its groups are not free."""
    if not isinstance(preset.encoding, Packed):
        raise ValueError(f"the groups of {preset.name} are what they are")
    return replace(preset, encoding=replace(preset.encoding, group_size=group_size))


def quantization_config(preset: Preset, ignore: Sequence[str]) -> dict[str, object]:
    """config.json's words for a folder whose matrices are all stored so, but for the modules that `ignore` matches."""
    encoding = preset.encoding
    group = {
        "targets": ["Linear"],
        "weights": _words({"num_bits": encoding.bits, "dynamic": False, **encoding.args}),
        "input_activations": None if preset.inputs is None else _words(preset.inputs),
        "output_activations": None,
        "format": encoding.FORMAT,
    }
    return {
        "quant_method": QUANT_METHOD,
        "format": encoding.FORMAT,
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "ignore": list(ignore),
        "config_groups": {"group_0": group},
    }


def _words(args: Args) -> dict[str, object]:
    """With what the schema writes besides."""
    return {"symmetric": True, "group_size": None, **args}


def preset_of(words: Args) -> Preset | None:
    """What a `quantization_config` of compressed-tensors says of its one group of matrices; None for anything else."""
    groups = words.get("config_groups")
    (group,) = groups.values() if isinstance(groups, Mapping) and len(groups) == 1 else (None,)
    if not isinstance(group, Mapping) or not isinstance(weights := group.get("weights"), Mapping):
        return None
    inputs = group.get("input_activations")
    encoding = _encoding(str(group.get("format") or words.get("format")), weights, bool(inputs))
    if encoding is None:
        return None
    stated = inputs if isinstance(inputs, Mapping) else None
    return Preset(_name(encoding, stated), encoding, stated)


def _encoding(format_: str, weights: Args, inputs: bool) -> Encoding | None:
    bits = weights.get("num_bits")
    if format_ == Packed.FORMAT and isinstance(bits, int) and 2 <= bits <= 8:
        group = weights.get("group_size")
        size = group if isinstance(group, int) and weights.get("strategy") == "group" else -1
        return Packed(bits, size, bool(weights.get("symmetric", True)))
    for encoding in (*KNOWN[:-2], Nvfp4(inputs), Mxfp4()):
        said = {"num_bits": encoding.bits, **{k: v for k, v in encoding.args.items() if k != "scale_dtype"}}
        if format_ == encoding.FORMAT and all(weights.get(key) == value for key, value in said.items()):
            return encoding
    return None


def _name(encoding: Encoding, inputs: Args | None) -> str:
    """The preset that stores matrices and rounds inputs so, else one made of the bits: W4A16."""
    kind = inputs and (inputs.get("type"), inputs.get("num_bits"))
    for preset in (*PRESETS.values(), FP8_TENSOR):
        own = preset.inputs and (preset.inputs.get("type"), preset.inputs.get("num_bits"))
        same = type(preset.encoding) is type(encoding) and preset.bits == encoding.bits
        if same and preset.encoding.args == encoding.args and own == kind:
            return preset.name
    return f"W{encoding.bits}A{16 if inputs is None else inputs.get('num_bits')}"
