"""Rotary positions: reading both spellings of the config, and saying them in GGUF's words.

transformers 4 writes rope_theta and rope_scaling, transformers 5 writes rope_parameters with all in one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convert.architectures._config import MAX_CONTEXT, Config
from convert.architectures._part import Generated
from convert.gguf.fields import Field

NO_OTHER_SCALING = "llama.cpp knows no other position scaling for this architecture"
YARN_BETAS = {
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}  # llama-hparams.h; only mistral3, grok and a few read them from the file


@dataclass(frozen=True)
class Rope:
    kind: str  # default, linear, yarn, llama3
    theta: float
    values: Config  # the rest of the parameters
    context: int
    sections: tuple[int, ...] = ()  # mrope: how many frequencies turn with time, height, width


def read_rope(config: Config, kinds: Sequence[str], context: int, theta: float = 10000.0) -> Rope:
    """The config's rotary parameters; `kinds` are the scalings llama.cpp has for the architecture."""
    key = "rope_parameters" if config.has("rope_parameters") else "rope_scaling"
    values = config.sub(key)
    spelled = "rope_type" if values.has("rope_type") else "type"
    kind = values.word(spelled, "default", ("default", "mrope", *kinds), NO_OTHER_SCALING)
    theta = (values if values.has("rope_theta") else config).number("rope_theta", theta)
    for owner in (values, config):
        if owner.number("partial_rotary_factor", 1.0) != 1.0:
            owner.complain("partial_rotary_factor", owner.values["partial_rotary_factor"], "1")
    sections = values.sizes("mrope_section") if values.has("mrope_section") else ()
    return Rope("default" if kind == "mrope" else kind, theta, values, context, sections)


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
    values = rope.values
    factor = values.number("factor", least=1.0, above=False)
    original = values.size("original_max_position_embeddings", rope.context, MAX_CONTEXT)
    if not values.flag("truncate", True):
        values.complain("truncate", False, "true", "llama.cpp always rounds the correction range outwards")
    if values.has("mscale") or values.has("mscale_all_dim"):
        values.complain("mscale", values.values.get("mscale"), "none", NO_OTHER_SCALING)
    fields = [
        Field.string(f"{prefix}.type", "yarn"),
        Field.float32(f"{prefix}.factor", factor),
        Field.uint32(f"{prefix}.original_context_length", original),
    ]
    if values.has("attention_factor"):
        # llama.cpp multiplies its own 1 + 0.1 ln(factor) by this one (llama-context.cpp, yarn_attn_factor)
        attention = values.number("attention_factor") / (1 + 0.1 * math.log(factor))
        fields.append(Field.float32(f"{prefix}.attn_factor", attention))
    for key, value in YARN_BETAS.items():
        if values.has(key):
            fields.append(Field.float32(f"{prefix}.yarn_{key}", value))
            if values.number(key) != value:
                values.complain(
                    key, values.values[key], f"{value:g}", "llama.cpp reads it for other architectures only"
                )
    return fields


_SCALINGS = {"default": _none, "llama3": _none, "linear": _linear, "yarn": _yarn}


def rope_tensors(rope: Rope, head_dim: int) -> tuple[Generated, ...]:
    """`rope_freqs.weight` of a model with llama3 scaling: what each frequency is divided by, float32 (head_dim / 2).

    Wavelengths under a limit stay, long ones are divided by `factor`, those between slide from one to the other
    (transformers, modeling_rope_utils, llama3). Every other step in float32 and in torch's order, where a number
    divided by a tensor is the number times the tensor's reciprocal.
    """
    if rope.kind != "llama3":
        return ()
    values, one = rope.values, np.float32(1)
    factor, low, high = (np.float32(values.number(k)) for k in ("factor", "low_freq_factor", "high_freq_factor"))
    original = np.float32(values.size("original_max_position_embeddings", rope.context, MAX_CONTEXT))
    if high <= low:
        values.complain("high_freq_factor", float(high), f"more than low_freq_factor, {low:g}")
        return ()
    # the power in float64: numpy's float32 one differs between processors in the last bit
    powers = np.float64(rope.theta) ** (np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim))
    wavelengths = np.float32(2 * math.pi) * (one / (one / powers.astype(np.float32)))
    smooth = (original * (one / wavelengths) - low) / (high - low)
    between = one / ((one - smooth) / factor + smooth)
    divisors = np.where(wavelengths > original / low, factor, between)
    divisors = np.where(wavelengths < original / high, one, divisors)
    return (Generated("rope_freqs.weight", divisors.astype(np.float32)),)
