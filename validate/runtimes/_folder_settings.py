"""The settings that a checkpoint's folder states, by transformers' own reading of its configs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from validate.runtimes._optional import optional
from validate.runtimes.base import Setting

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, GenerationConfig, PreTrainedConfig

SAMPLING = (
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p"),
    *("repetition_penalty", "no_repeat_ngram_size", "num_beams", "length_penalty", "diversity_penalty"),
    *("max_length", "max_new_tokens", "min_length", "min_new_tokens", "stop_strings", "suppress_tokens"),
)
"""Words of generation_config.json that decide what is written and how long it becomes."""

POSITIONS = ("rope_theta", "rope_type", "rope_factor", "original_max_position_embeddings")
IMAGES = ("image_mean", "image_std", "min_pixels", "max_pixels")
ALIASES = {"mrope": "default", "su": "longrope"}  # older words of rope_type
SCALED = ("yarn", "longrope", "llama3")  # that ask how long texts were before


def sampling(generation: GenerationConfig | None, said: Mapping[str, object]) -> dict[str, Setting]:
    """What generation_config.json says; `said` is its JSON: what it does not say, some versions fill in."""
    found = {word: _setting(optional(generation, word)) for word in SAMPLING if said.get(word) is not None}
    return {word: value for word, value in found.items() if value is not None}


def tokens(generation: GenerationConfig | None, config: PreTrainedConfig) -> dict[str, Setting]:
    """The ids of BOS and PAD by the configs, not by the tokenizer."""
    found: dict[str, Setting] = {}
    for name in ("bos_token_id", "pad_token_id"):
        number = optional(generation, name)
        number = optional(config, name) if number is None else number
        if isinstance(number, int) and number >= 0:
            found[name] = number
    return found


COUNTED_FROM_PADDING = ("roberta", "xlm-roberta", "camembert")
"""Model types whose first position is the one behind the padding token's id: the table is as many rows longer."""


def positions(config: PreTrainedConfig) -> dict[str, Setting]:
    """Context, window and rotary positions of the text model; of layers that differ, those that see everything."""
    contexts = [optional(config, name) for name in ("max_position_embeddings", "model_max_length")]  # Cohere has both
    context = max((number for number in contexts if isinstance(number, int)), default=None)
    if context is not None and optional(config, "model_type") in COUNTED_FROM_PADDING:
        context -= 1 + int(optional(config, "pad_token_id") or 0)
    window = optional(config, "sliding_window")
    found: dict[str, Setting] = {}
    if context is not None:
        found["max_position_embeddings"] = context
    if isinstance(window, int) and 0 < window < (context or window + 1) and _has_window(config):
        found["sliding_window"] = window
    return found | dict(_rotary(config))


def _has_window(config: PreTrainedConfig) -> bool:
    kinds = optional(config, "layer_types")
    return not isinstance(kinds, Sequence) or "sliding_attention" in kinds


def _rotary(config: PreTrainedConfig) -> Iterator[tuple[str, Setting]]:
    values = optional(config, "rope_parameters")
    if not isinstance(values, Mapping):
        return
    values = values.get("full_attention", values)
    if not isinstance(values, Mapping):
        return
    kind = str(values.get("rope_type") or "default")
    kind = ALIASES.get(kind, kind)
    yield "rope_type", kind
    original = values.get("original_max_position_embeddings", optional(config, "original_max_position_embeddings"))
    asked = {"rope_theta": values.get("rope_theta")}
    if kind != "default":
        asked["rope_factor"] = values.get("factor")
    if kind in SCALED:
        asked["original_max_position_embeddings"] = original
    yield from ((name, number) for name, number in asked.items() if isinstance(number, int | float))


def images(processor: BaseImageProcessor, limits: tuple[int, int] | None) -> dict[str, Setting]:
    """What is subtracted from pixels and what they are divided by, a colour each; and how many pixels there may be."""
    found = {name: _setting(optional(processor, name)) for name in ("image_mean", "image_std")}
    stated: dict[str, Setting] = {name: value for name, value in found.items() if isinstance(value, tuple)}
    return {**stated, **dict(zip(("min_pixels", "max_pixels"), limits or (), strict=False))}


def _setting(value: object) -> Setting | None:
    if isinstance(value, list | tuple):
        plain = tuple(item for item in value if isinstance(item, int | float | str))
        return plain if plain and len(plain) == len(value) else None
    return value if isinstance(value, bool | int | float | str) else None
