"""What an output is held to: presets named by what is expected, a recipe's own numbers, and whose count.

Pure data and rules; who an output is (its stage, its type) the caller says by names.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from validate.embeddings import TEXT
from validate.metrics import DEFINITIONS, Better, applies, default_limits, unknown_metrics

PRESET = "preset"  # the word that takes a preset's limits among an output's own
DEFAULT, RECIPE = "default", "recipe"  # where a limit is from, beside the presets' names
PROVEN = "default of a file whose tensors are right"

Entry = Mapping[str, float | str]  # metric -> limit, and PRESET -> its name
Gates = dict[str, tuple[float, str]]  # metric -> limit, where it is from


@dataclass(frozen=True)
class Preset:
    """Limits, and the words for what keeps them."""

    meaning: str
    limits: Mapping[str, float]


# Published for Llama-3-8B on wikitext-2, mean KL and share of equal most likely tokens: Q8_0 0.0014 / 97.7 %,
# Q6_K 0.0055 / 96.0 %, Q5_K_M 0.011, Q4_K_M 0.031 / 91.9 %, Q3_K_M 0.10, Q2_K 0.45 / 71 %. A preset's kl_mean lies
# between two neighbours, at about their geometric mean: near-lossless between Q6_K and Q5_K_M (0.008), good between
# Q4_K_M and Q3_K_M (0.056), usable between Q3_K_M and Q2_K (0.21). top1 lies between the same types, or halfway between
# the nearest ones published. ppl_ratio is exp(kl_mean): on text as the model itself would write it, the mean of
# ln(p / q) is the KL. decode_kl is kl_mean: what is written word by word is as near to what is made of a whole text as
# that is to the source. Of tasks (clicks, tool calls) there are a hundred or a dozen: a drop is as many of them as a
# person would forgive, and never less than one of those there usually are.
PRESETS: Mapping[str, Preset] = {
    "near-lossless": Preset(
        "nobody sees a difference; Q8_0 and Q6_K of most models",
        {
            "kl_mean": 0.008,
            "top1": 0.95,
            "ppl_ratio": 1.01,
            "decode_kl": 0.008,
            "click_drop": 0.02,
            "tool_call_drop": 0.07,
            "embedding_cosine": 0.999,
            "embedding_cosine_mean": 0.9995,
            "score_error": 0.05,
            "rank_agreement": 0.98,
        },
    ),
    "good": Preset(
        "the usual choice: it differs in places, and answers as well; Q5_K_M and Q4_K_M of most models",
        {
            "kl_mean": 0.05,
            "top1": 0.9,
            "ppl_ratio": 1.05,
            "decode_kl": 0.05,
            "click_drop": 0.05,
            "tool_call_drop": 0.07,
            "embedding_cosine": 0.98,
            "embedding_cosine_mean": 0.99,
            "score_error": 0.15,
            "rank_agreement": 0.95,
        },
    ),
    "usable": Preset(
        "for small memory: clearly another model, and a working one; Q3_K_M of most models",
        {
            "kl_mean": 0.2,
            "top1": 0.8,
            "ppl_ratio": 1.2,
            "decode_kl": 0.2,
            "click_drop": 0.1,
            "tool_call_drop": 0.14,
            "embedding_cosine": 0.93,
            "embedding_cosine_mean": 0.96,
            "score_error": 0.3,
            "rank_agreement": 0.9,
        },
    ),
}

# Held only where they were measured: not every runtime states settings, not every model ends a text we have, takes
# images, clicks or calls tools. A recipe's own number has to be measured all the same.
SOME_HAVE = frozenset(
    {
        "settings_equal",
        "stops_equal",
        "image_tokens_equal",
        "click_drop",
        "tool_call_drop",
        "tensors_equal",
        "hyperparameters_equal",
    }
)


def mistakes(entry: object) -> list[str]:
    """What is wrong with what a recipe says for one output; `entry` is a preset's name or metrics with limits."""
    if isinstance(entry, str):
        return _unknown_preset(entry)
    if not isinstance(entry, Mapping):
        return [f"{entry!r} is neither a preset's name nor metrics with limits"]
    numbers = {name: limit for name, limit in entry.items() if name != PRESET}
    said = _unknown_preset(entry[PRESET]) if PRESET in entry else []
    for name, nearest in unknown_metrics(numbers).items():
        said.append(f"there is no metric '{name}'" + (f"; did you mean '{nearest}'?" if nearest else ""))
    for name, limit in numbers.items():
        number = isinstance(limit, int | float) and not isinstance(limit, bool)
        if not number or not 0 <= limit < math.inf:
            said.append(f"{name} is {limit if number else repr(limit)}, a limit is a number from 0 on")
    return said


def _unknown_preset(name: object) -> list[str]:
    if isinstance(name, str) and name in PRESETS:
        return []
    near = difflib.get_close_matches(str(name), PRESETS, 1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(PRESETS)}"
    return [f"there is no preset {name!r}; {hint}"]


def addresses(key: str, names: Collection[str]) -> bool:
    """Whether a recipe's key, a name or a pattern such as `Q4_*`, means the output that has these names."""
    return key in names or (_is_pattern(key) and any(fnmatchcase(name, key) for name in names))


def _is_pattern(key: str) -> bool:
    return any(character in key for character in "*?[")


def _exactness(key: str, names: list[str]) -> tuple[bool, int, int]:
    """Sorts keys: one for a runtime over none, names over patterns over `*`, longer patterns over shorter."""
    row, _, runtime = key.partition("@")
    if key in names and row != "*":
        return bool(runtime), 2, names.index(key)
    return bool(runtime), int(row != "*"), len(row)


def addressing(keys: Iterable[str], names: list[str]) -> list[str]:
    """The keys that mean the output, the least exact first; `names` in that order too."""
    return sorted((key for key in keys if addresses(key, names)), key=lambda key: _exactness(key, names))


def gates(
    entries: Mapping[str, Entry], names: list[str], type_: str, projector: str | None = None, gives: str = TEXT
) -> Gates:
    """What the output with these names is held to.

    Its type's defaults, then what the recipe says, the least exact first. A preset says what a reader expects and a
    default what such a file can do: of these two the stricter counts. The recipe's own numbers always count.
    """
    defaults = {name: (limit, DEFAULT) for name, limit in default_limits(type_, projector, gives).items()}
    found = dict(defaults)
    for key in addressing(entries, names):
        entry = entries[key]
        if PRESET in entry:
            preset = str(entry[PRESET])
            ours = {n: (limit, preset) for n, limit in PRESETS[preset].limits.items() if applies(n, gives)}
            found |= {name: _stricter(name, gate, defaults.get(name, gate)) for name, gate in ours.items()}
        found |= {name: (float(limit), RECIPE) for name, limit in entry.items() if name != PRESET}
    return found


def _stricter(name: str, ours: tuple[float, str], default: tuple[float, str]) -> tuple[float, str]:
    lower = DEFINITIONS[name].better is Better.LOWER
    return default if (default[0] < ours[0] if lower else default[0] > ours[0]) else ours


def applicable(found: Gates, measured: Collection[str]) -> Gates:
    """The gates that are to be judged: without those that hold only where they were measured, and were not."""
    return {
        name: (limit, source)
        for name, (limit, source) in found.items()
        if source == RECIPE or name in measured or name not in SOME_HAVE
    }


def without(found: Gates, left_out: Collection[str]) -> Gates:
    """The gates but the usual ones on metrics that a runtime is not asked for; a recipe's own count all the same."""
    return {name: gate for name, gate in found.items() if name not in left_out or gate[1] == RECIPE}


# A default says what a type does to most models; a small model that was trained for long loses several times as much.
# A file of which all that it states is the source's, each tensor the source's as its type rounds, on a runtime that
# was seen to compute the model right, is no broken one then. Still nothing is worse than the type with fewest bits.
# What is fed one at a time is compared with the file itself: no model is sensitive there, a wrong cache is.
_WIDER_KL = 4.0  # times the limit
_WIDER_TOP1 = 2.0  # times the share of other tokens


def of_proven(found: Gates, measured: Mapping[str, float]) -> Gates:
    """The gates of a file that its tensors and its runtime prove: defaults on drift are wider where it misses them."""
    least = default_limits("*")
    missed = {name for name, (limit, source) in found.items() if source == DEFAULT and _misses(name, limit, measured)}
    return {n: _wider(n, limit, least) if n in missed else (limit, source) for n, (limit, source) in found.items()}


def _misses(name: str, limit: float, measured: Mapping[str, float]) -> bool:
    if name not in measured:
        return False
    return measured[name] > limit if DEFINITIONS[name].better is Better.LOWER else measured[name] < limit


def _wider(name: str, limit: float, least: Mapping[str, float]) -> tuple[float, str]:
    if name == "kl_mean":
        return max(limit, min(_WIDER_KL * limit, least["kl_mean"])), PROVEN
    if name == "top1":
        return min(limit, max(1 - _WIDER_TOP1 * (1 - limit), least["top1"])), PROVEN
    return limit, DEFAULT


def in_words(found: Gates) -> Iterator[str]:
    """`kl_mean <= 0.05 (good)` for each."""
    for name, (limit, source) in found.items():
        yield f"{name} {DEFINITIONS[name].better} {limit:g} ({source})"
