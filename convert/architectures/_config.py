"""config.json from strangers: every value is checked for type and range before it is used, all problems at once."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from convert.errors import PlanError, Problem, raise_all
from convert.json_types import JsonObject

MAX_SIZE = 1 << 24  # rows or columns of a weight; the largest vocabularies of the field are below 2**19
MAX_LAYERS = 512  # llama.cpp, LLAMA_MAX_LAYERS
MAX_CONTEXT = (1 << 31) - 1  # llama.cpp counts positions in 32 bits

_MISSING = object()
_NAMES_ONLY: ContextVar[bool] = ContextVar("names_only", default=False)
_READ: ContextVar[set[str] | None] = ContextVar("read", default=None)


@contextlib.contextmanager
def keys_read() -> Iterator[set[str]]:
    """The keys that configs are asked for within, by the names that they have there."""
    keys: set[str] = set()
    token = _READ.set(keys)
    try:
        yield keys
    finally:
        _READ.reset(token)


@contextlib.contextmanager
def names_only() -> Iterator[None]:
    """Problems of configs are not raised within: what llama.cpp cannot compute has names of tensors all the same.

    Shapes of what is made then may be stand-ins; nothing is written from them.
    """
    token = _NAMES_ONLY.set(True)
    try:
        yield
    finally:
        _NAMES_ONLY.reset(token)


T = TypeVar("T")


@dataclass
class Config:
    """A config's values by name.

    A getter returns a harmless stand-in for a bad value and remembers the problem; `finish()` raises PlanError with
    all of them.
    """

    values: JsonObject
    where: str = "config.json"
    problems: list[Problem] = field(default_factory=list)
    spellings: Mapping[str, str] = field(default_factory=dict)  # key asked for -> what this config calls it

    def sub(self, key: str) -> Config:
        """The object under `key`, an empty one where there is none; problems go to the same list."""
        key = self.key(key)
        value = self.values.get(key)
        if value is None:
            value = {}
        elif not isinstance(value, Mapping):
            self.complain(key, value, "an object")
            value = {}
        return Config(value, f"{self.where}: {key}", self.problems)

    def merged(self, key: str) -> Config:
        """This config with the values of the object under `key` on top."""
        return Config({**self.values, **self.sub(key).values}, self.where, self.problems, self.spellings)

    def with_defaults(self, **values: object) -> Config:
        """This config with `values` where it says nothing."""
        given = {key: value for key, value in self.values.items() if value is not None}
        return Config({**self.values, **values, **given}, self.where, self.problems, self.spellings)

    def spelled(self, **spellings: str) -> Config:
        """This config, where `hidden_size="n_embd"` says what it calls a hidden_size.

        The name asked for counts too where only that is there: transformers reads both.
        """
        return Config(self.values, self.where, self.problems, {**self.spellings, **spellings})

    def key(self, key: str) -> str:
        """What this config calls `key`."""
        other = self.spellings.get(key, key)
        called = key if self.values.get(other) is None and self.values.get(key) is not None else other
        if (keys := _READ.get()) is not None:
            keys.add(called)
        return called

    def size(self, key: str, default: int | None = None, most: int = MAX_SIZE, least: int = 1) -> int:
        """A whole number from `least`, 1 or 0, to `most`."""
        key = self.key(key)
        value = self._get(key, default)
        if value is _MISSING:
            return 1
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            return self._bad(key, value, f"a whole number from {least} to {most}", 1)
        return int(value)

    def number(self, key: str, default: float | None = None, least: float = 0.0, above: bool = True) -> float:
        """A finite number above (or, with above=False, not below) `least` that a float32 can hold."""
        key = self.key(key)
        value = self._get(key, default)
        if value is _MISSING:
            return 1.0
        good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 3e38
        if not good or math.isnan(value) or value < least or (above and value == least):
            return self._bad(key, value, f"a number {'above' if above else 'from'} {least:g}", 1.0)
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        key = self.key(key)
        value = self.values.get(key)
        if value is None:
            return default
        return value if isinstance(value, bool) else self._bad(key, value, "true or false", default)

    def word(self, key: str, default: str, allowed: Sequence[str], why: str = "") -> str:
        """One of the words in `allowed`; `why` is what to know when it is another."""
        key = self.key(key)
        value = self.values.get(key)
        if value is None:
            return default
        if value not in allowed:
            self.complain(key, value, _one_of(allowed), why)
            return default
        return str(value)

    def sizes(self, key: str, default: Sequence[int] | None = None, most: int = MAX_SIZE) -> tuple[int, ...]:
        """A list of whole numbers from 0 to `most`, at most MAX_LAYERS of them."""
        key = self.key(key)
        value = self._get(key, default)
        if value is _MISSING:
            return ()
        good = isinstance(value, list | tuple) and len(value) <= MAX_LAYERS
        if not good or not all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= most for v in value):
            return self._bad(key, value, f"a list of whole numbers from 0 to {most}", ())
        return tuple(map(int, value))

    def numbers(self, key: str, count: int, default: Sequence[float] | None = None) -> tuple[float, ...]:
        """A list of `count` finite numbers."""
        key = self.key(key)
        value = self._get(key, default)
        if value is _MISSING:
            return (1.0,) * count
        good = isinstance(value, list | tuple) and len(value) == count
        if not good or not all(isinstance(v, int | float) and abs(v) < 3e38 for v in value):
            return self._bad(key, value, f"a list of {count} numbers", (1.0,) * count)
        return tuple(map(float, value))

    def words(self, key: str, count: int, allowed: Sequence[str]) -> tuple[str, ...]:
        """A list of `count` of the words in `allowed`, as layer_types; empty where there is none."""
        key = self.key(key)
        value = self.values.get(key)
        if value is None:
            return ()
        good = isinstance(value, list | tuple) and len(value) == count
        if not good or not all(isinstance(v, str) and v in allowed for v in value):
            return self._bad(key, value, f"a list of {count}, each {_one_of(allowed)}", ())
        return tuple(map(str, value))

    def require(self, key: str, wanted: object, why: str = "") -> None:
        """Complain unless the config says `wanted` or nothing under `key`; `why` is what to know then."""
        key = self.key(key)
        if self.has(key) and (
            self.values[key] != wanted or isinstance(self.values[key], bool) != isinstance(wanted, bool)
        ):
            self.complain(key, self.values[key], _json(wanted), why)

    def has(self, key: str) -> bool:
        return self.values.get(self.key(key)) is not None

    def complain(self, key: str, got: object, wanted: str, remedy: str = "") -> None:
        self.problems.append(Problem(self.where, f"{key} is {_short(got)}", wanted, remedy))

    def finish(self) -> None:
        """Raise PlanError with all problems, but within `names_only`."""
        if not _NAMES_ONLY.get():
            self.refuse()

    def refuse(self) -> None:
        """Raise PlanError with all problems, where there are any."""
        raise_all(self.problems, PlanError)

    def _get(self, key: str, default: object) -> Any:
        value = self.values.get(key)
        if value is not None:
            return value
        if default is not None:
            return default
        self.problems.append(Problem(self.where, f"{key} is missing"))
        return _MISSING

    def _bad(self, key: str, value: object, wanted: str, stand_in: T) -> T:
        self.complain(key, value, wanted)
        return stand_in


def _one_of(words: Sequence[str]) -> str:
    *first, last = map(repr, words)
    return f"{', '.join(first)} or {last}" if first else last


def _json(value: object) -> str:
    """As config.json would say it."""
    return json.dumps(value) if value is None or isinstance(value, bool) else f"{value}"


def _short(value: object) -> str:
    text = _json(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
