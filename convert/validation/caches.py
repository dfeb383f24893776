"""Of which outputs the types of the key-value cache are compared, and how much is read for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from convert.errors import Problem
from convert.formats.base import Output
from convert.validation.limits import addressed
from validate import kv_cache

if TYPE_CHECKING:
    from convert.validation.options import ValidateOptions

COUNTED_TOKENS = 4096  # of the longest text: what a quarter of an hour allows is not known beforehand


def measured_on(options: ValidateOptions) -> Sequence[str]:
    """The names of the outputs to measure; none where it is all of them, or nothing is asked."""
    return options.kv_cache.on if options.kv_cache else ()


def compares_caches(options: ValidateOptions, row: Output) -> bool:
    """Whether the recipe asks for the cache types of this output."""
    asked = options.kv_cache
    return asked is not None and _has_types(row) and (not asked.on or addressed(asked.on, row))


def cache_work(options: ValidateOptions, context: int | None, rows: Sequence[Output]) -> int:
    """Tokens through the weights of all outputs for their cache types; the model was made for `context` tokens."""
    asked = options.kv_cache
    if asked is None:
        return 0
    longest = asked.longest or min(context or COUNTED_TOKENS, COUNTED_TOKENS)
    tokens = (1 + len(asked.question.rows)) * (options.most_tokens + 2 * longest)
    return tokens * sum(row.weights_size for row in rows if compares_caches(options, row))


def check_caches(options: ValidateOptions, rows: Sequence[Output]) -> list[Problem]:
    """Types of a cache for no output that has one."""
    if options.kv_cache is None or any(compares_caches(options, row) for row in rows):
        return []
    if options.kv_cache.on and not any(addressed(options.kv_cache.on, row) for row in rows):
        return []  # names of no output, which are told one by one
    got, remedy = "kv_cache, and no stage makes a GGUF file", "add a stage `use: gguf`, or leave out kv_cache"
    if any(map(_has_types, rows)):
        got = f"kv_cache: on: {', '.join(options.kv_cache.on)}, which names no GGUF file"
        remedy = "name GGUF outputs, or leave out `on` for all of them"
    return [Problem("validate", got, "an output that runs on llama.cpp", remedy)]


def _has_types(row: Output) -> bool:
    return row.weights.format == kv_cache.FORMAT and not row.on
