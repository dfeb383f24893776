"""Fields hold what their type can hold."""

from __future__ import annotations

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
        (Field.int32s, [1, None]),
    ],
)
def test_a_value_of_another_type_is_refused_by_key(make: object, value: object) -> None:
    with pytest.raises(InputError, match=r"a\.key"):
        make("a.key", value)


def test_numbers_are_gguf_pys() -> None:
    import gguf

    assert {t.name: t.value for t in GGUFValueType} == {t.name: t.value for t in gguf.GGUFValueType}
