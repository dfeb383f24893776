"""Rotary positions: reading both spellings of the config, and saying them in GGUF's words.

transformers 4 writes rope_theta and rope_scaling, transformers 5 writes rope_parameters with all in one; for models
whose layers differ it writes one of them for each kind of layer (full_attention, sliding_attention).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from convert.architectures._config import MAX_CONTEXT, Config
from convert.architectures._graph_spec import Generated
from convert.gguf_field import Field

NO_OTHER_SCALING = "llama.cpp knows no other position scaling for this architecture"
YARN_BETAS = {
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}  # llama-hparams.h; only mistral3, grok and a few read them from the file
ALIASES = {"mrope": "default", "su": "longrope"}


@dataclass(frozen=True)
class Rotary:
    """What llama.cpp's graph of an architecture knows about rotary positions."""

    scalings: Sequence[str] = ("linear", "yarn")
    theta: float = 10000.0  # where the config is silent
    partial: float | None = None  # which part of a head turns where the config is silent; None: all of it, always
    own: Sequence[str] = ()  # words of YaRN (mscale, truncate, beta_fast …) that the family looks at itself


@dataclass(frozen=True)
class Rope:
    """A config's rotary positions, checked."""

    kind: str  # default, linear, yarn, llama3, longrope
    theta: float
    values: Config  # the rest of the parameters
    context: int
    dimensions: int  # values of a head that turn: the first ones
    own: Sequence[str] = ()  # see Rotary
    sections: tuple[int, ...] = ()  # mrope: how many frequencies turn with time, height, width


def read_rope(config: Config, rotary: Rotary, context: int, head_dim: int, layers: str = "full_attention") -> Rope:
    """The config's rotary parameters, those of the kind of layers called `layers` where they differ."""
    key = "rope_parameters" if config.has("rope_parameters") else "rope_scaling"
    values = config.sub(key)
    if values.has(layers):
        values = values.sub(layers)
    spelled = "rope_type" if values.has("rope_type") else "type"
    olds = (old for old, new in ALIASES.items() if new in ("default", *rotary.scalings))
    kind = values.word(spelled, "default", ("default", *rotary.scalings, *olds), NO_OTHER_SCALING)
    theta = (values if values.has("rope_theta") else config).number("rope_theta", rotary.theta)
    sections = values.sizes("mrope_section") if values.has("mrope_section") else ()
    original = "original_max_position_embeddings"
    if config.has(original):  # Phi-3 has it beside; transformers takes that one then (standardize_rope_params)
        values = Config({**values.values, original: config.values[original]}, values.where, values.problems)
    dimensions = _dimensions(config, values, head_dim, rotary.partial)
    return Rope(ALIASES.get(kind, kind), theta, values, context, dimensions, tuple(rotary.own), sections)


def without_dynamic(config: Config) -> tuple[Config, tuple[str, ...]]:
    """The config without frequencies that change in texts longer than its context, and what to note of them.

    Up to there such a model has the frequencies of one without (transformers, modeling_rope_utils, dynamic).
    """
    for key in ("rope_parameters", "rope_scaling"):
        values = config.values.get(key)
        if isinstance(values, Mapping) and "dynamic" in (values.get("rope_type"), values.get("type")):
            plain = {name: value for name, value in values.items() if name == "rope_theta"}
            context = config.size("max_position_embeddings", most=MAX_CONTEXT)
            note = f"in texts of more than {context} tokens the source changes its frequencies, llama.cpp does not"
            return Config({**config.values, key: plain}, config.where, config.problems, config.spellings), (note,)
    return config, ()


def sliding_theta(config: Config, default: float) -> float:
    """The base of the frequencies in layers with a window, where they have their own and no scaling is for them."""
    both = config.sub("rope_parameters")
    if not both.has("sliding_attention"):
        return config.number("rope_local_base_freq", default)
    local = both.sub("sliding_attention")
    local.word("rope_type", "default", ("default",), "llama.cpp scales no positions within windows")
    return local.number("rope_theta", default)


def _dimensions(config: Config, values: Config, head_dim: int, partial: float | None) -> int:
    owner = values if values.has("partial_rotary_factor") else config
    share = owner.number("partial_rotary_factor", partial or 1.0)
    dimensions = int(head_dim * share)
    if share != 1.0 and partial is None:
        owner.complain(
            "partial_rotary_factor", share, "1", "llama.cpp's graph of this architecture rotates whole heads"
        )
    elif dimensions > head_dim or dimensions % 2 or not dimensions:
        owner.complain("partial_rotary_factor", share, f"an even part of a head of {head_dim} values")
    return dimensions


def rope_fields(rope: Rope, prefix: str) -> list[Field]:
    """GGUF's metadata for `rope`; llama3's frequencies are a tensor instead, see `rope_tensors`."""
    fields = [*_SCALINGS[rope.kind](rope, f"{prefix}.rope.scaling")]
    if rope.sections:
        # always four in the file: time, height, width, and one for models yet to come
        padded = (*rope.sections, 0, 0, 0, 0)[:4]
        fields.append(Field.int32s(f"{prefix}.rope.dimension_sections", padded))
    return [*fields, Field.float32(f"{prefix}.rope.freq_base", rope.theta)]


def _none(rope: Rope, prefix: str) -> list[Field]:
    return []


def _linear(rope: Rope, prefix: str) -> list[Field]:
    return [Field.string(f"{prefix}.type", "linear"), Field.float32(f"{prefix}.factor", rope.values.number("factor"))]


def _yarn(rope: Rope, prefix: str) -> list[Field]:
    values = Config(
        {key: value for key, value in rope.values.values.items() if key not in rope.own},
        rope.values.where,
        rope.values.problems,
    )
    if not values.flag("truncate", True):
        values.complain("truncate", False, "true", "llama.cpp always rounds the correction range outwards")
    if values.has("mscale") and values.has("mscale_all_dim"):  # one alone does nothing (modeling_rope_utils, yarn)
        values.complain("mscale", values.values.get("mscale"), "none", NO_OTHER_SCALING)
    factor = values.number("factor", least=1.0, above=False)
    original = values.size("original_max_position_embeddings", rope.context, MAX_CONTEXT)
    fields = [
        Field.string(f"{prefix}.type", "yarn"),
        Field.float32(f"{prefix}.factor", factor),
        Field.uint32(f"{prefix}.original_context_length", original),
    ]
    if values.has("attention_factor"):
        # llama.cpp multiplies its own 1 + 0.1 ln(factor) by this one (llama-context.cpp, yarn_attn_factor)
        attention = values.number("attention_factor") / (1 + 0.1 * math.log(factor))
        fields.append(Field.float32(f"{prefix}.attn_factor", attention))
    return [*fields, *_betas(values, prefix)]


def _betas(values: Config, prefix: str) -> Iterator[Field]:
    for key, value in YARN_BETAS.items():
        if values.has(key):
            yield Field.float32(f"{prefix}.yarn_{key}", value)
            if values.number(key) != value:
                why = "llama.cpp reads it for other architectures only"
                values.complain(key, values.values[key], f"{value:g}", why)


def _longrope(rope: Rope, prefix: str) -> list[Field]:
    """The context it was first trained for; its factors are tensors."""
    return [
        Field.string(f"{prefix}.type", "longrope"),
        Field.uint32(f"{prefix}.original_context_length", longrope_original(rope)),
        Field.float32(f"{prefix}.attn_factor", longrope_attention(rope)),
    ]


def longrope_original(rope: Rope) -> int:
    """Tokens of context the unscaled model was trained for."""
    return rope.values.size("original_max_position_embeddings", rope.context, MAX_CONTEXT)


def longrope_attention(rope: Rope) -> float:
    """What queries and keys are multiplied by (transformers, modeling_rope_utils, longrope)."""
    if rope.values.has("attention_factor"):
        return rope.values.number("attention_factor")
    original = longrope_original(rope)
    scale = rope.values.number("factor") if rope.values.has("factor") else rope.context / original
    return math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 and original > 1 else 1.0


def longrope_notes(rope: Rope | None) -> tuple[str, ...]:
    """When llama.cpp takes the factors of long texts, where there are two sets of them."""
    if rope is None or rope.kind != "longrope":
        return ()
    return (
        "llama.cpp takes the frequencies for long texts as soon as its context has room for more than "
        f"{longrope_original(rope)} tokens, the source when a text is longer",
    )


_SCALINGS = {"default": _none, "llama3": _none, "linear": _linear, "yarn": _yarn, "longrope": _longrope}


def rope_tensors(rope: Rope) -> tuple[Generated, ...]:
    """The tensors a scaling needs: what each frequency is divided by, float32 (dimensions / 2)."""
    if rope.kind == "longrope":
        names = ("long", "short")
        half = rope.dimensions // 2
        factors = [rope.values.numbers(f"{name}_factor", half) for name in names]
        return tuple(
            Generated(f"rope_factors_{name}.weight", np.array(values, np.float32))
            for name, values in zip(names, factors, strict=True)
        )
    return _llama3_tensor(rope) if rope.kind == "llama3" else ()


def _llama3_tensor(rope: Rope) -> tuple[Generated, ...]:
    """`rope_freqs.weight` of a model with llama3 scaling.

    Wavelengths under a limit stay, long ones are divided by `factor`, those between slide from one to the other
    (transformers, modeling_rope_utils, llama3). Every other step in float32 and in torch's order, where a number
    divided by a tensor is the number times the tensor's reciprocal.
    """
    values, one, size = rope.values, np.float32(1), rope.dimensions
    factor, low, high = (np.float32(values.number(k)) for k in ("factor", "low_freq_factor", "high_freq_factor"))
    original = np.float32(values.size("original_max_position_embeddings", rope.context, MAX_CONTEXT))
    if high < low:
        values.complain("high_freq_factor", float(high), f"at least low_freq_factor, {low:g}")
        return ()
    # the power in float64: numpy's float32 one differs between processors in the last bit
    powers = np.float64(rope.theta) ** (np.arange(0, size, 2, dtype=np.float32) / np.float32(size))
    wavelengths = np.float32(2 * math.pi) * (one / (one / powers.astype(np.float32)))
    with np.errstate(divide="ignore", invalid="ignore"):  # Llama 4 has the two equal, and nothing between
        smooth = (original * (one / wavelengths) - low) / (high - low)
        between = one / ((one - smooth) / factor + smooth)
    divisors = np.where(wavelengths > original / low, factor, between)
    divisors = np.where(wavelengths < original / high, one, divisors)
    return (Generated("rope_freqs.weight", divisors.astype(np.float32)),)
