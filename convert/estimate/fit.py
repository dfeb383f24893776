"""How much of a budget is left for a model's weights, and how many layers go to a GPU where not all do.

On a GPU lie the weights of the layers and of the output, the cache and the buffer of what is computed; the embedding
of tokens stays in the host's memory, unless it is the output too: then it lies in both (llama_model::load_tensors).
Layers go to the GPU from the last to the first, each with its cache; the output counts as one, the last of all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from convert.errors import InputError
from convert.estimate.hyper import read_hyper
from convert.estimate.memory import Memory, estimate
from convert.estimate.model_file import ModelFile, Weight
from convert.estimate.setting import Setting

OF_HOST = re.compile(r"(per_layer_)?token_embd\.weight|position_embd\.weight|token_types\.weight|token_embd_norm\..*")
OUTPUT = re.compile(r"output(_norm)?\..*|cls\..*|cls_out\..*|cls_norm\..*")
TIED = "token_embd.weight"


@dataclass(frozen=True)
class Room:
    """What is left of a budget: bytes for all tensors but those named, which lie elsewhere and cost nothing of it."""

    nbytes: int
    elsewhere: frozenset[str]


def room_for_weights(
    model: ModelFile, setting: Setting, budget: int, *, gpu: bool = True, projector: ModelFile | None = None
) -> Room:
    """The bytes of `budget` that are left for the weights of a model like this, of any types, all of it in one place.

    `model` is any file of it: only metadata and shapes count, the types of its tensors do not. `budget` is the memory
    that llama.cpp may take, of a GPU or of the host. Raises InputError where the rest leaves nothing.
    """
    memory = estimate(model, setting, projector)
    left = budget - (memory.beside_on_gpu if gpu else memory.beside)
    if left <= 0:
        got = f"{budget:,} bytes are less than what is needed beside the weights: {memory.parts(gpu)}"
        raise InputError(
            "the budget", got, "more memory", "a shorter context or a smaller type of the cache needs less"
        )
    return Room(left, frozenset(w.name for w in of_host(model)) if gpu else frozenset())


def of_host(model: ModelFile) -> list[Weight]:
    """The weights that do not lie on a GPU when all layers do."""
    tied = not model.shape("output.weight")
    return [w for w in model.weights if OF_HOST.fullmatch(w.name) and not (tied and w.name == TIED)]


def on_gpu_bytes(model: ModelFile) -> int:
    """Of all weights that lie on a GPU when all layers do."""
    elsewhere = {w.name for w in of_host(model)}
    return sum(w.nbytes for w in model.weights if w.name not in elsewhere)


@dataclass(frozen=True)
class Offload:
    """So many of so many layers, the output counted as one, and what they take of the GPU with all that is beside."""

    layers: int
    of: int
    nbytes: int
    weights: int  # bytes of the weights there
    cache: int  # and of the cache


def offload(model: ModelFile, memory: Memory, budget: int) -> Offload:
    """The most layers that fit (-ngl), and with none of them nothing: then llama.cpp computes on the CPU."""
    costs = _layer_costs(model, memory)
    fixed = memory.beside_on_gpu - memory.cache
    weights = cache = count = 0
    for weight_bytes, cache_bytes in costs:
        if fixed + weights + cache + weight_bytes + cache_bytes > budget:
            break
        weights, cache, count = weights + weight_bytes, cache + cache_bytes, count + 1
    return Offload(count, len(costs), fixed + weights + cache if count else 0, weights, cache)


def _layer_costs(model: ModelFile, memory: Memory) -> Sequence[tuple[int, int]]:
    """Bytes of weights and cache of the output, then of each layer from the last to the first."""
    elsewhere = {w.name for w in of_host(model)}
    count = model.number("block_count")
    weights, cache = [0] * count, [0] * count
    output = 0
    for weight in model.weights:
        if weight.name in elsewhere:
            continue
        if weight.layer is None or weight.layer >= count:
            output += weight.nbytes
        else:
            weights[weight.layer] += weight.nbytes
    for layer in memory.layers:
        cache[layer.layer] += layer.nbytes
    return [(output, 0), *reversed(list(zip(weights, cache, strict=True)))]


def beyond_its_own(model: ModelFile, setting: Setting) -> str:
    """A note where the context is longer than what the model was made for."""
    made_for = read_hyper(model).context
    if not made_for or setting.context <= made_for:
        return ""
    return f"a context of {setting.context:,} tokens is more than the {made_for:,} that the model was made for"
