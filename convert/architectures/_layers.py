"""Fields of models whose layers differ in their numbers of heads or in the width of their MLPs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from convert.gguf_field import Field

WIDTHS, HEADS, KV_HEADS = ".feed_forward_length", ".attention.head_count", ".attention.head_count_kv"  # ends of keys


def listed(fields: Iterable[Field], numbers: Mapping[str, Sequence[int]]) -> Iterator[Field]:
    """The fields, those whose keys end so with a number for each layer."""
    for field in fields:
        found = next((values for ending, values in numbers.items() if field.key.endswith(ending)), None)
        yield field if found is None else Field.int32s(field.key, found)
