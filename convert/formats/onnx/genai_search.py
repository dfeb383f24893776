"""How a model is to be sampled, in the words of genai_config.json's `search`: as generation_config.json asks.

The builder carries a few of the words and leaves the rest at its own defaults (base.py, make_genai_config); what its
runtime takes at all is the list in src/config.cpp, Search_Element: another word is refused when the folder is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from convert.json_types import JsonObject

Number: TypeAlias = int | float


def _is_number(value: object, least: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= least


def _is_count(value: object, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**31


HELD: Mapping[str, Callable[[object], bool]] = MappingProxyType(
    {
        "do_sample": lambda value: isinstance(value, bool),
        "temperature": lambda value: _is_number(value, 0),
        "top_k": _is_count,
        "top_p": lambda value: _is_number(value, 0),
        "repetition_penalty": lambda value: _is_number(value, 0) and value != 0,
        "no_repeat_ngram_size": _is_count,
        "min_length": _is_count,
        "max_length": lambda value: _is_count(value, 1),
        "num_beams": lambda value: _is_count(value, 1),
        "length_penalty": lambda value: _is_number(value, -math.inf),
        "diversity_penalty": lambda value: _is_number(value, 0),
    }
)
"""generation_config.json's word, the same in `search` -> whether a value is one that it can be."""


def search_settings(generation: JsonObject, context_length: int) -> dict[str, Number]:
    """What `search` has to say of what a generation_config.json says; a value of the wrong type is left out.

    `max_length` is at most the context, which the runtime insists on. Beams are for a search without sampling, the
    runtime refuses both together, and cannot share the buffer of the cache.
    """
    found = {word: generation[word] for word, fits in HELD.items() if word in generation and fits(generation[word])}
    if "max_length" in found:
        found["max_length"] = min(found["max_length"], context_length)
    if found.get("do_sample"):
        found.pop("num_beams", None)
    if found.get("num_beams", 1) > 1:
        found["past_present_share_buffer"] = False
    return found
