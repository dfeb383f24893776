"""Settings that travel with a model, source against output: sampling, lengths, positions, how images are prepared.

Names are transformers' (generation_config.json, config.json, preprocessor_config.json). A setting counts as lost where
the output's runtime would take another value than the source's; what the output's format has no place for is a note,
with what to do instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from validate.contract import Check, Counter
from validate.runtimes.base import ModelSettings, Setting

SAMPLERS = frozenset({"temperature", "top_k", "top_p", "min_p", "typical_p"})
"""Words without effect where the likeliest token is taken: `do_sample: false`."""

UNSAID: Mapping[str, Setting] = MappingProxyType(
    {
        "do_sample": False,
        "temperature": 1.0,
        "top_k": 50,
        "top_p": 1.0,
        "min_p": 0.0,
        "typical_p": 1.0,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "min_length": 0,
        "num_beams": 1,
        "length_penalty": 1.0,
        "diversity_penalty": 0.0,
        "sliding_window": 0,
        "rope_type": "default",
    }
)
"""What transformers takes where a source says nothing (its GenerationConfig); 0 of a window: there is none."""

ROUNDED = 1e-6  # of float32 in a file, and of llama.cpp, which gives numbers as text with six digits behind the point
NAME, TITLE, METRIC = "settings", "settings that travel: sampling, lengths, positions, images", "settings_equal"


def compare_settings(source: Mapping[str, Setting], output: ModelSettings) -> Check:
    """One comparison a setting that either side states and the format can hold; notes on what it cannot."""
    counter, notes = Counter(), []
    greedy = source.get("do_sample") is False and _taken("do_sample", output) is False
    for name in [*source, *(name for name in output.values if name not in source)]:
        if name in output.elsewhere or (greedy and name in SAMPLERS):
            continue
        wanted, got = source.get(name, UNSAID.get(name)), _taken(name, output)
        if wanted is None:
            continue  # the source leaves it to its user
        if got is None and name in output.no_place:
            if not _same(wanted, UNSAID.get(name)):
                notes.append(_no_place(name, wanted, output))
        elif got is None or not _same(wanted, got):
            stated = "" if name in output.values else ", which the runtime takes: the file says nothing"
            counter.differ(name, shown(wanted), "not said" if got is None else f"{shown(got)}{stated}")
        else:
            counter.compare(name, True, True)
    return counter.check(NAME, TITLE, METRIC, "; ".join(notes))


def _taken(name: str, output: ModelSettings) -> Setting | None:
    """What the runtime takes: the file's word, else its own default, where the format could have said otherwise."""
    return output.values.get(name, None if name in output.no_place else output.defaults.get(name))


def _no_place(name: str, value: Setting, output: ModelSettings) -> str:
    remedy = output.no_place[name].format(value=shown(value))
    return f"cannot be held by {output.where}: {name} {shown(value)}" + (f"; {remedy}" if remedy else "")


def _same(one: Setting, other: Setting | None) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=ROUNDED, abs_tol=ROUNDED)
    return one == other


def shown(value: Setting) -> str:
    """As a person would write it: 1.05, not 1.0499999523162842."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}" if value < 1e6 else f"{value:.9g}"
    return repr(value) if isinstance(value, str) else str(value)
