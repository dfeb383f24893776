"""Amounts as people write them. GB is 10^9 bytes and GiB 2^30, as everywhere else here; k of tokens is 1024."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

AMOUNT = re.compile(r"(?P<number>\d{1,15}(?:\.\d{1,9})?)\s*(?P<unit>[a-zA-Z]*)")
UNITS = {
    **dict.fromkeys(("", "b"), 1),
    **dict.fromkeys(("k", "kb"), 10**3),
    **dict.fromkeys(("m", "mb"), 10**6),
    **dict.fromkeys(("g", "gb"), 10**9),
    **dict.fromkeys(("t", "tb"), 10**12),
    **dict.fromkeys(("ki", "kib"), 2**10),
    **dict.fromkeys(("mi", "mib"), 2**20),
    **dict.fromkeys(("gi", "gib"), 2**30),
    **dict.fromkeys(("ti", "tib"), 2**40),
}
TOKENS = {"": 1, "k": 1024, "m": 1024**2}
SECOND = re.compile(r"\s*/\s*s(ec|econd)?$|ps$")


def bytes_of(text: str) -> int:
    """The bytes that `8GB`, `7.5 GiB` or `8000000000` is. Raises ValueError."""
    return _amount(text, UNITS, "an amount of memory, wanted one as 8GB, 7.5GiB or a number of bytes")


def tokens_of(text: str) -> int:
    """The tokens that `16k` (16,384) or `20000` is. Raises ValueError."""
    return _amount(text, TOKENS, "a number of tokens, wanted one as 16k (16,384) or 20000")


def bandwidth_of(text: str) -> int:
    """The bytes a second that `400GB/s` is. Raises ValueError."""
    try:
        return bytes_of(SECOND.sub("", text.strip()))
    except ValueError:
        raise ValueError(f"{text!r} is not a bandwidth, wanted one as 400GB/s") from None


def _amount(text: str, units: dict[str, int], wanted: str) -> int:
    match = AMOUNT.fullmatch(text.strip())
    if match is None or match["unit"].lower() not in units or not (found := float(match["number"])):
        raise ValueError(f"{text!r} is not {wanted}")
    whole = found * units[match["unit"].lower()]
    return int(match["number"]) * units[match["unit"].lower()] if "." not in match["number"] else round(whole)


def size_in_bytes(value: object) -> int:
    """The bytes that `4.2GB`, `4 GiB` or a bare number is. Raises ValueError for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value == int(value) and value > 0:
        return int(value)
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no size, wanted bytes, or a number with a unit as in 4.2GB or 3.9GiB")
    return bytes_of(value)


Size = Annotated[
    int,
    BeforeValidator(size_in_bytes),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string"}]}),
]
"""Of an option that is an amount of memory."""
