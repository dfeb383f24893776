"""A decoder's cache as inputs and outputs of its graph, as transformers itself lays it out for the model's config.

    past_key_values.N.key, .value   (batch, heads, past, width)   -> present.N.key, .value
    past_conv.N[.name]              (batch, channels, kernel)     -> present_conv.N   the last inputs of a convolution
    past_ssm.N, past_recurrent.N    (batch, heads, ..., width)    -> present_ssm.N    what a state space remembers

The names are those that transformers.js and Optimum use. Shapes are found by running the model without values: heads
and widths may differ by layer, and layers that share another's keys have none of their own.

An empty cache is a past of 0 tokens and states of zeros, so that one graph serves prefill and decoding. Layers with a
sliding window keep every key here: the mask hides what lies outside.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DummyLayer,
    DynamicCache,
    DynamicLayer,
    LinearAttentionCacheLayerMixin,
)

from convert.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig

KEYS = ("key", "value")
THREE_CONVOLUTIONS = ("query", "key", "value")  # names of the states of a layer that convolves these apart
SELECTIVE = ("mamba_selective_scan", "mamba2_chunk_scan")  # in a model's file: its state is a state space's


class Slot(NamedTuple):
    """A tensor of the cache: of which layer, of what kind, and its number where a layer has several."""

    layer: int
    kind: str  # key, value, conv, ssm, recurrent
    number: int = 0


@dataclass(frozen=True)
class CacheTensor:
    """One input of the graph and the output that takes its place in the next step."""

    slot: Slot
    shape: tuple[int, ...]  # without the batch; None of them is the past, which is counted as 0
    of_several: bool = False

    @property
    def grows(self) -> bool:
        """Whether there is a row a token."""
        return self.slot.kind in KEYS

    @property
    def input(self) -> str:
        """past_key_values.3.key, past_conv.3"""
        return self._name("past_key_values", "past")

    @property
    def output(self) -> str:
        """present.3.key, present_conv.3"""
        return self._name("present", "present")

    def _name(self, keys: str, states: str) -> str:
        layer, kind, number = self.slot
        if kind in KEYS:
            return f"{keys}.{layer}.{kind}"
        return f"{states}_{kind}.{layer}" + (f".{THREE_CONVOLUTIONS[number]}" if self.of_several else "")


@dataclass(frozen=True)
class Layout:
    """The cache of a model."""

    tensors: tuple[CacheTensor, ...]
    layers: int

    @property
    def grows(self) -> bool:
        """Whether there is attention, so that the past has a length."""
        return any(one.grows for one in self.tensors)

    def past(self, tensors: Sequence[Tensor]) -> PastCache:
        """The cache that holds these tensors, in order."""
        given = {one.slot: tensor for one, tensor in zip(self.tensors, tensors, strict=True)}
        return PastCache([_layer(number, given) for number in range(self.layers)])

    def present(self, cache: Cache) -> tuple[Tensor, ...]:
        """The outputs that `past` takes back at the next step."""
        return tuple(_held(cache.layers[one.slot.layer], one.slot) for one in self.tensors)


class PastLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """A layer's keys and values; none at all is only a length of 0."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.set_keys(keys, values)

    def set_keys(self, keys: Tensor, values: Tensor) -> None:
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self.keys, self.values = keys, values

    def get_seq_length(self) -> int:
        length: int = self.keys.shape[-2]  # a symbol while it is traced: int() would make a constant of it
        return length


class StateLayer(LinearAttentionCacheLayerMixin):  # type: ignore[misc]  # transformers has no types
    """A layer's states. There always are some: zeros before the first token."""

    def __init__(self, convolutions: Sequence[Tensor], states: Sequence[Tensor]) -> None:
        super().__init__(max(len(convolutions), len(states)))
        self.set_states(convolutions, states)

    def set_states(self, convolutions: Sequence[Tensor], states: Sequence[Tensor]) -> None:
        self.conv_states = dict(enumerate(convolutions))
        self.recurrent_states = dict(enumerate(states))
        self.has_previous_state = dict.fromkeys(range(self.number_of_states), True)

    def lazy_initialization(self, *_: object, **__: object) -> None:
        """Nothing: the states are inputs."""

    def update_conv_state(self, conv_states: Tensor, state_idx: int = 0, **_: object) -> Tensor:
        """The states before the new columns; the last of both are kept."""
        before = self.conv_states[state_idx]
        whole = torch.cat([before, conv_states], dim=-1)
        self.conv_states[state_idx] = whole[..., -before.shape[-1] :]
        return whole

    def update_recurrent_state(self, recurrent_states: Tensor, state_idx: int = 0, **_: object) -> Tensor:
        self.recurrent_states[state_idx] = recurrent_states
        return recurrent_states


class HybridLayer(StateLayer, PastLayer):
    """A layer that has both side by side."""

    def __init__(self, pair: tuple[Tensor, Tensor], convolutions: Sequence[Tensor], states: Sequence[Tensor]) -> None:
        DynamicLayer.__init__(self)
        LinearAttentionCacheLayerMixin.__init__(self, max(len(convolutions), len(states)))
        self.set_keys(*pair)
        self.set_states(convolutions, states)


class PastCache(Cache):  # type: ignore[misc]  # transformers has no types
    """A cache of such layers."""

    def __init__(self, layers: Sequence[object]) -> None:
        super().__init__(layers=list(layers))

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        STATE.tensor = super().get_recurrent_state(layer_idx, state_idx)
        return STATE.tensor

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens so far; where no layer counts them, none has a use for it."""
        if not any(isinstance(layer, DynamicLayer) for layer in self.layers):
            return 0
        length: int = super().get_seq_length(layer_idx)
        return length


class _State:
    """The state that was asked for last; functions that scan over tokens take it, for not all are handed it."""

    tensor: Tensor | None = None

    def take(self) -> Tensor | None:
        tensor, self.tensor = self.tensor, None
        return tensor


STATE = _State()


def _layer(number: int, given: dict[Slot, Tensor]) -> object:
    own = {slot: tensor for slot, tensor in given.items() if slot.layer == number}
    keys = [own[Slot(number, what)] for what in KEYS if Slot(number, what) in own]
    convolutions = [tensor for slot, tensor in own.items() if slot.kind == "conv"]
    states = [tensor for slot, tensor in own.items() if slot.kind not in (*KEYS, "conv")]
    if not own:
        return DummyLayer()
    if keys and (convolutions or states):
        return HybridLayer((keys[0], keys[1]), convolutions, states)
    return PastLayer(*keys) if keys else StateLayer(convolutions, states)


def _held(layer: CacheLayerMixin, slot: Slot) -> Tensor:
    if slot.kind in KEYS:
        return layer.keys if slot.kind == "key" else layer.values
    states = layer.conv_states if slot.kind == "conv" else layer.recurrent_states
    return states[slot.number]


KNOWN = frozenset(
    {
        "DynamicLayer",
        "DynamicSlidingWindowLayer",
        "DummyLayer",
        "LinearAttentionLayer",
        "LinearAttentionAndFullAttentionLayer",
        "LinearAttentionAndSlidingWindowAttentionLayer",
    }
)
"""transformers' kinds of layers of a cache whose tensors are inputs here."""


def empty(config: PretrainedConfig) -> Cache:
    """transformers' own cache for a config.

    Raises InputError for one that holds more than keys, values and states.
    """
    cache = DynamicCache(config=config)
    kinds = {type(layer).__name__ for layer in cache.layers}
    if strange := sorted(kinds - KNOWN):
        got = f"'{config.model_type}' has a cache of {', '.join(strange)}"
        raise InputError("config.json", got, "keys, values and states", "the gguf stage may know this family")
    return cache


def layout(model: nn.Module, cache: Cache) -> Layout:
    """What `cache` holds after the model was run with it."""
    files = {type(module).__module__ for module in model.modules()}
    state = "ssm" if any(name in vars(sys.modules[file]) for file in files for name in SELECTIVE) else "recurrent"
    found: list[CacheTensor] = []
    for number, layer in enumerate(cache.layers):
        if isinstance(layer, DynamicLayer) and layer.keys is not None:
            for kind, tensor in zip(KEYS, (layer.keys, layer.values), strict=True):
                _, heads, _, width = tensor.shape
                found.append(CacheTensor(Slot(number, kind), (heads, 0, width)))
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            for kind, states in (("conv", layer.conv_states), (state, layer.recurrent_states)):
                here = {at: one for at, one in states.items() if one is not None}
                found += [
                    CacheTensor(Slot(number, kind, at), tuple(one.shape[1:]), len(here) > 1) for at, one in here.items()
                ]
    return Layout(tuple(found), len(cache.layers))
