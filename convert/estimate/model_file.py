"""What the estimate looks at: a GGUF file's metadata, and the names, shapes and bytes of its tensors."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class Weight:
    """A tensor; `shape` in numpy's order: rows before what is in a row."""

    name: str
    shape: tuple[int, ...]
    nbytes: int

    @property
    def layer(self) -> int | None:
        """The layer it belongs to; None for what belongs to none."""
        found = LAYER.match(self.name)
        return int(found[1]) if found else None


@dataclass(frozen=True)
class ModelFile:
    """A GGUF file, there or planned; of one in shards all of them."""

    fields: Mapping[str, object]  # the metadata: key -> value, a tuple for an array
    weights: Sequence[Weight]
    size: int  # bytes of the file

    @property
    def architecture(self) -> str:
        """llama.cpp's name for the kind of model."""
        return str(self.fields.get("general.architecture", ""))

    def get(self, key: str) -> object:
        """The value of `<architecture>.<key>`; None where the file says nothing."""
        return self.fields.get(f"{self.architecture}.{key}")

    def number(self, key: str, default: int = 0) -> int:
        """A whole number of the architecture; where there is one a layer, the largest."""
        value = self.get(key)
        if isinstance(value, tuple):
            value = max((item for item in value if isinstance(item, int)), default=default)
        return value if isinstance(value, int) else default

    def per_layer(self, key: str, layers: int, default: int = 0) -> tuple[int, ...]:
        """A whole number for each layer, from an array or from one number for all."""
        value = self.get(key)
        if isinstance(value, tuple):
            found = [int(item) for item in value if isinstance(item, int)][:layers]
            return (*found, *([default] * (layers - len(found))))
        return (value if isinstance(value, int) else default,) * layers

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor; empty where there is none of that name."""
        return self._shapes.get(name, ())

    @functools.cached_property
    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {weight.name: weight.shape for weight in self.weights}
