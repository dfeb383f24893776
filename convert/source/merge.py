"""A checkpoint's tensors with adapters merged: what each becomes, and what config.json then says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TypeAlias

import numpy as np

from convert.errors import InputError
from convert.json_types import JsonDict, JsonObject
from convert.source.adapter import Adapter, LowRank, place_of
from convert.source.checkpoint import STORAGE, LazyTensor

Step: TypeAlias = Callable[[np.ndarray, int, int], np.ndarray]  # rows, their first and the one after the last

BLOCK_VALUES = 1 << 20  # computed at a time
FLOATS = ("F32", "F16", "BF16")
SIXTEEN = {"bfloat16": "BF16", "float16": "F16"}
HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"
TIED = "tie_word_embeddings"


@dataclass(frozen=True)
class Merged:
    """A checkpoint that will be."""

    tensors: Mapping[str, LazyTensor]
    config: JsonObject
    notes: tuple[str, ...]


def merged(tensors: Mapping[str, LazyTensor], config: JsonObject, adapters: Sequence[Adapter]) -> Merged:
    """The checkpoint with the adapters, one after the other. Raises InputError for one that does not fit."""
    making = _Making(dict(tensors), dict(config))
    for adapter in adapters:
        making.add(adapter)
    return making.done()


class _Making:
    """Tensors on their way: which steps each goes through."""

    def __init__(self, tensors: dict[str, LazyTensor], config: JsonDict) -> None:
        self.tensors, self.config = tensors, config
        self.steps: dict[str, list[Step]] = {}
        self.notes: list[str] = []
        self.half = SIXTEEN.get(str(_text(config).get("dtype") or _text(config).get("torch_dtype")), "F32")

    def add(self, adapter: Adapter) -> None:
        for name, tensor in adapter.whole.items():
            self._replace(adapter, name, tensor)
        for module, low in adapter.low_rank.items():
            name = self._named(adapter, f"{module}.weight")
            self._fit(adapter, name, module, low)
            step = _Dora(self.tensors[name], low, adapter.transposed, self._before(name)) if low.magnitude else None
            self.steps.setdefault(name, []).append(step or _Sum(low, adapter.transposed or low.embedding))
        for module, (bias, scale) in adapter.biases.items():
            name = self._named(adapter, f"{module}.bias")
            self._equal(adapter, name, bias)
            self.steps.setdefault(name, []).append(_plus(bias, scale))
        for module, (rows, places) in adapter.tokens.items():
            name = self._named(adapter, f"{module}.weight")
            if rows.shape[1:] != self.tensors[name].shape[1:] or max(places, default=0) >= self.tensors[name].shape[0]:
                got = f"{module}: rows {list(rows.shape)} at up to {max(places, default=0)}, the model's {name} is "
                raise adapter.refuse(got + str(list(self.tensors[name].shape)))
            self.steps.setdefault(name, []).append(_exchange(rows, places))
        what = f"{len(adapter.low_rank)} matrices changed, {len(adapter.whole)} tensors replaced"
        self.notes.append(f"the adapter {adapter.folder} is merged: {what}")

    def _named(self, adapter: Adapter, tensor: str) -> str:
        if found := place_of(tensor, self.tensors):
            return found
        if tensor.endswith(HEAD) and (embedding := place_of(_embedding(self.tensors), self.tensors)):
            self._untie(tensor, self.tensors[embedding])
            return tensor
        module = tensor.rpartition(".")[0]
        low = adapter.low_rank.get(module)
        rank = f" of rank {low.rank}, {list(low.b.shape)} by {list(low.a.shape)}," if low else ""
        raise adapter.refuse(f"changes {module}{rank} and the model has no {tensor}")

    def _untie(self, head: str, tensor: LazyTensor) -> None:
        """A head that was the embedding gets values of its own."""
        self.tensors[head] = replace(tensor, name=head)
        self.steps[head] = list(self.steps.get(tensor.name, ()))
        self.config[TIED] = False
        if isinstance(self.config.get("text_config"), dict) and TIED in self.config["text_config"]:
            self.config["text_config"] = {**self.config["text_config"], TIED: False}
        self.notes.append("the adapter changes the head, which was tied to the embedding: they are two tensors now")

    def _replace(self, adapter: Adapter, name: str, tensor: LazyTensor) -> None:
        own = place_of(name, self.tensors)
        if not own and not name.endswith(HEAD):
            raise adapter.refuse(f"has {name} {list(tensor.shape)}, and the model has no such tensor")
        own = own or name
        if own in self.tensors and own not in self.steps:
            before = self.tensors[own]
            grown = len(before.shape) == 2 and before.shape[1:] == tensor.shape[1:] and _of_tokens(own)
            if before.shape != tensor.shape and not grown:
                raise adapter.refuse(f"has {name} {list(tensor.shape)}, the model's is {list(before.shape)}")
        if own not in self.tensors and _is_tied(self.config):
            embedding = place_of(_embedding(adapter.whole), adapter.whole)
            if embedding and adapter.whole[embedding].load().tobytes() == tensor.load().tobytes():
                return  # the tied embedding, saved under both names
            self._untie(own, tensor)
        self.tensors[own], self.steps[own] = replace(tensor, name=own), []

    def _fit(self, adapter: Adapter, name: str, module: str, low: LowRank) -> None:
        made = low.b.shape[0], low.a.shape[1]
        made = made[::-1] if adapter.transposed or low.embedding else made
        base = self.tensors[name]
        if base.shape != made or base.dtype not in FLOATS:
            words = f"lora_A {list(low.a.shape)} and lora_B {list(low.b.shape)} of rank {low.rank} make {list(made)}"
            raise adapter.refuse(f"{module}: {words}, the model's {name} is {base.dtype} {list(base.shape)}")
        if low.magnitude is not None and prod(low.magnitude.shape) != low.b.shape[0]:
            raise adapter.refuse(
                f"{module}: lora_magnitude_vector {list(low.magnitude.shape)} of {low.b.shape[0]} rows"
            )

    def _equal(self, adapter: Adapter, name: str, tensor: LazyTensor) -> None:
        if self.tensors[name].shape != tensor.shape:
            raise adapter.refuse(f"a bias {list(tensor.shape)}, the model's {name} is {list(self.tensors[name].shape)}")

    def _before(self, name: str) -> Callable[[int, int], np.ndarray]:
        """The rows as they are before the step that is added next."""
        tensor, steps = self.tensors[name], tuple(self.steps.get(name, ()))
        return lambda start, stop: _through(_floats(tensor, start, stop), steps, start, stop)

    def done(self) -> Merged:
        """The tensors that are computed, and the config with the vocabulary that there is."""
        made = {name: self._tensor(name, tensor) for name, tensor in self.tensors.items()}
        self._count_tokens(made)
        return Merged(made, self.config, tuple(self.notes))

    def _tensor(self, name: str, tensor: LazyTensor) -> LazyTensor:
        steps = tuple(self.steps.get(name, ()))
        if not steps and tensor.rows is None:
            return tensor
        whole = tensor.rows is not None and tensor.dtype == "F32"
        dtype = self.half if whole else tensor.dtype  # what was quantized is 16 bits in the model

        def rows(start: int, stop: int) -> np.ndarray:
            return _stored(_through(_floats(tensor, start, stop), steps, start, stop), dtype)

        def load() -> np.ndarray:
            step = max(1, BLOCK_VALUES // max(1, prod(tensor.shape[1:])))
            whole = np.empty(tensor.shape, STORAGE[dtype])
            for start in range(0, tensor.shape[0], step):
                whole[start : start + step] = rows(start, min(start + step, tensor.shape[0]))
            return whole

        return replace(tensor, dtype=dtype, load=load, rows=rows)

    def _count_tokens(self, made: Mapping[str, LazyTensor]) -> None:
        """Say the embedding's rows in the config, where an adapter brought more."""
        embedding = place_of(_embedding(made), made)
        text = _text(self.config)
        if not embedding or not isinstance(text.get("vocab_size"), int):
            return
        count = made[embedding].shape[0]
        head = next((made[name] for name in made if name.endswith(HEAD)), None)
        if head is not None and head.shape[0] != count:
            got = f"{head.name} has {head.shape[0]} rows, the embedding {count}, with the adapter merged"
            remedy = "save both with the adapter (modules_to_save, or save_embedding_layers=True)"
            raise InputError("the adapter", got, "as many of both", remedy)
        if count == text["vocab_size"] or embedding not in self.steps:
            return
        self.notes.append(f"the embedding has {count} rows, vocab_size was {text['vocab_size']}")
        if text is not self.config:
            self.config["text_config"] = {**text, "vocab_size": count}
        if "vocab_size" in self.config:
            self.config["vocab_size"] = count


def _text(config: JsonDict) -> JsonDict:
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) and "vocab_size" in inner else config


def _is_tied(config: JsonDict) -> bool:
    return bool(_text(config).get(TIED, config.get(TIED, True)))


def _embedding(names: Mapping[str, object]) -> str:
    """The token embedding, of these tensors; empty where there is none."""
    return next((name for name in names if name.endswith((EMBEDDING, "wte.weight", "word_embeddings.weight"))), "")


def _of_tokens(name: str) -> bool:
    return name.endswith((EMBEDDING, HEAD, "wte.weight", "word_embeddings.weight", "embed_out.weight"))


# ---- steps


def _through(values: np.ndarray, steps: Sequence[Step], start: int, stop: int) -> np.ndarray:
    for step in steps:
        values = step(values, start, stop)
    return values


def _floats(tensor: LazyTensor, start: int, stop: int) -> np.ndarray:
    """float32 of some rows."""
    from quantize.floats import to_float32

    values = tensor.load()[start:stop] if tensor.rows is None else tensor.rows(start, stop)
    return to_float32(np.array(values))


def _stored(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 in a type, rounded to the nearest."""
    from quantize import floats

    if dtype == "F32":
        return values
    flat = np.ascontiguousarray(values).reshape(1, -1)
    found = floats.bf16(flat) if dtype == "BF16" else floats.f16(flat)
    return np.asarray(found.view(STORAGE[dtype]).reshape(values.shape))


class _Sum:
    """Plus scale * B @ A, or its transpose."""

    def __init__(self, low: LowRank, transposed: bool) -> None:
        self.low, self.transposed = low, transposed

    @cached_property
    def _factors(self) -> tuple[np.ndarray, np.ndarray]:
        a, b = (_floats(tensor, 0, tensor.shape[0]) for tensor in (self.low.a, self.low.b))
        return (a.T, b.T) if self.transposed else (b, a)

    def delta(self, start: int, stop: int) -> np.ndarray:
        """What is added to some rows."""
        left, right = self._factors
        return np.asarray((left[start:stop] @ right) * np.float32(self.low.scale))

    def __call__(self, values: np.ndarray, start: int, stop: int) -> np.ndarray:
        return np.asarray(values + self.delta(start, stop))


class _Dora(_Sum):
    """As above; then each output of the matrix gets a length that was learned."""

    def __init__(
        self, base: LazyTensor, low: LowRank, transposed: bool, before: Callable[[int, int], np.ndarray]
    ) -> None:
        super().__init__(low, transposed)
        self.base, self.before = base, before

    @cached_property
    def _magnitude(self) -> np.ndarray:
        assert self.low.magnitude is not None
        return _floats(self.low.magnitude, 0, self.low.magnitude.shape[0]).reshape(-1)

    @cached_property
    def _lengths(self) -> np.ndarray:
        """Of the columns of a matrix that is stored (inputs, outputs)."""
        rows, columns = self.base.shape
        step, sums = max(1, BLOCK_VALUES // columns), np.zeros(columns, np.float64)
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            values = self.before(start, stop) + self.delta(start, stop)
            sums += (values.astype(np.float64) ** 2).sum(0)
        return np.sqrt(sums).astype(np.float32)

    def __call__(self, values: np.ndarray, start: int, stop: int) -> np.ndarray:
        changed = values + self.delta(start, stop)
        if self.transposed:
            return np.asarray(changed * (self._magnitude / self._lengths))
        lengths = np.sqrt((changed.astype(np.float64) ** 2).sum(1)).astype(np.float32)
        return np.asarray(changed * (self._magnitude[start:stop] / lengths)[:, None])


def _plus(bias: LazyTensor, scale: float) -> Step:
    return lambda values, start, stop: np.asarray(values + _floats(bias, start, stop) * np.float32(scale))


def _exchange(rows: LazyTensor, places: Sequence[int]) -> Step:
    def exchanged(values: np.ndarray, start: int, stop: int) -> np.ndarray:
        found = [(at, place - start) for at, place in enumerate(places) if start <= place < stop]
        own = _floats(rows, 0, rows.shape[0]) if found else values
        for at, place in found:
            values[place] = own[at]
        return values

    return exchanged
