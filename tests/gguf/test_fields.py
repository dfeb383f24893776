"""Fields hold what their type can hold."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from convert.errors import InputError
from convert.gguf_field import Field, GGUFValueType


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (Field.uint32, -1),
        (Field.uint32, 2**32),
        (Field.uint32, True),
        (Field.uint32, 1.0),
        (Field.uint8, 256),
        (Field.int32, 2**31),
        (Field.float32, float("nan")),
        (Field.float32, "1"),
        (Field.float32, 1e300),
        (Field.boolean, 1),
        (Field.string, None),
        (Field.string, "\ud800"),
        (Field.strings, ["a", 1]),
        (Field.strings, ["a", "\ud83d", "\ude00"]),  # no pair: each string stands for itself
        (Field.int32s, [1, None]),
        (Field.int32s, [1, True]),
        (Field.int32s, [1, -(2**31) - 1]),
        (Field.uint32s, [2**32, 1]),
        (Field.float32s, [0.5, float("nan"), 1.0]),
        (Field.float32s, [0.5, -1e300]),
        (Field.float32s, [0.5, False]),
    ],
)
def test_a_value_of_another_type_is_refused_by_key(make: object, value: object) -> None:
    with pytest.raises(InputError, match=r"a\.key"):
        make("a.key", value)


@pytest.mark.parametrize(
    ("make", "values", "code"),
    [
        (Field.int32s, [-(2**31), 2**31 - 1, 0], "<3i"),
        (Field.float32s, [float("-inf"), 1, -0.5], "<3f"),
        (Field.float32s, [], "<"),
        (Field.int32s, [], "<"),
    ],
)
def test_arrays_hold_the_ends_of_their_range(make: Callable[..., Field], values: list[float], code: str) -> None:
    field = make("a.key", values)
    assert field.value == tuple(values)
    assert field.encoded.endswith(struct.pack("<Q", len(values)) + struct.pack(code, *values))


def test_strings_are_lengths_and_utf_8() -> None:
    encoded = Field.strings("k", ["", "aé", "😀"]).encoded
    texts = [b"", "aé".encode(), "😀".encode()]
    assert encoded.endswith(struct.pack("<Q", 3) + b"".join(struct.pack("<Q", len(t)) + t for t in texts))


def test_numbers_are_gguf_pys() -> None:
    import gguf

    assert {t.name: t.value for t in GGUFValueType} == {t.name: t.value for t in gguf.GGUFValueType}
