"""The largest buffer that a pass over a batch needs: ggml uses one buffer again and again for all that is computed.

What is alive at once is largest at one of a few places of a layer, or at the head. In values a token, W the width:

    5 W                      embeddings, residual, and what ggml's allocator cannot put into the holes between them
    and the largest of
    attention                queries, and what it gives, or W and the keys and values;
                             without flash attention scores, heads x cells, and queries and what it gives
    feed-forward             gate, up and their product; one of the three where there is no gate
    experts                  the same of every expert used, or twice W of each
    state space              the input projected, convolved and in order for the scan, what that gives, the states
    head                     a row of logits for each token that has them

The mask (cells a token, one for each kind of cache) and the places in the cache lie beside it from the first layer on.
What was measured: tests/bench/memory.py.
"""

from __future__ import annotations

from convert.estimate.cache import FLOAT32, cells_of
from convert.estimate.hyper import Hyper, Layer
from convert.estimate.model_file import ModelFile
from convert.estimate.setting import Setting

FLOAT16 = 2
INDEX = 8  # bytes of a place in the cache
ALWAYS = 5  # times the width


def compute_bytes(model: ModelFile, hyper: Hyper, setting: Setting) -> int:
    """Of the buffer, where all is computed in one place."""
    largest = max((_layer(model, hyper, layer, setting) for layer in hyper.layers), default=0)
    extra = 2 * _per_layer_inputs(model)
    layers = setting.tokens * (ALWAYS * hyper.width + extra + largest)
    head = setting.logits * (ALWAYS * hyper.width + hyper.vocabulary)
    return inputs_bytes(hyper, setting) + FLOAT32 * max(layers, head)


def inputs_bytes(hyper: Hyper, setting: Setting) -> int:
    """What lies there from the first layer to the last: masks, positions and places in the cache."""
    flash, tokens = setting.cache.flash_attention, setting.tokens
    cells = {layer.window: cells_of(layer, setting) for layer in hyper.layers if layer.has_cache}
    masks = sum(cells.values()) * tokens * (FLOAT16 if flash else FLOAT32)
    widest = max((layer.kv_heads * layer.value for layer in hyper.layers if layer.has_cache), default=0)
    # without flash attention values lie across: each of a token's has a place of its own
    places = len(cells) * tokens * INDEX * (2 if flash else 1 + widest)
    return masks + places


def _layer(model: ModelFile, hyper: Hyper, layer: Layer, setting: Setting) -> int:
    """Values a token at the layer's largest place."""
    kept = 7 * hyper.width if model.shape(f"blk.{layer.number}.altup_router.weight") else 0  # streams beside its own
    return kept + max(
        _attention(hyper, layer, setting),
        _feed_forward(model, layer),
        _experts(model, hyper, layer),
        _state_space(model, layer, setting),
        _time_mix(model, hyper, layer),
    )


def _attention(hyper: Hyper, layer: Layer, setting: Setting) -> int:
    if not layer.has_cache:
        return 0
    queries, given = layer.heads * layer.key, layer.heads * layer.value
    if setting.cache.flash_attention:
        return max(queries + layer.kv_heads * (layer.key + layer.value), queries + given)
    fitting = 0 if queries == hyper.width else min(queries, given)  # into the hole that the residual's norm leaves
    return layer.heads * cells_of(layer, setting) + max(queries, given) + fitting


def _feed_forward(model: ModelFile, layer: Layer) -> int:
    prefix = f"blk.{layer.number}.ffn_"
    up, gate, down = (model.shape(f"{prefix}{part}.weight") for part in ("up", "gate", "down"))
    if not up or not down:
        return 0
    is_gated = bool(gate) or up[0] == 2 * down[1]  # in one matrix with the gate
    return (3 if is_gated else 1) * down[1]


def _experts(model: ModelFile, hyper: Hyper, layer: Layer) -> int:
    prefix = f"blk.{layer.number}.ffn_"
    down = model.shape(f"{prefix}down_exps.weight")
    if not down:
        return 0
    return max(3 * down[-1] * hyper.experts_used, (2 * hyper.experts_used + 1) * hyper.width)


def _state_space(model: ModelFile, layer: Layer, setting: Setting) -> int:
    prefix = f"blk.{layer.number}.ssm_"
    projected, convolved = model.shape(f"{prefix}in.weight"), model.shape(f"{prefix}conv1d.weight")
    if not projected or not convolved:
        return 0
    states = layer.state * setting.texts // setting.tokens
    return projected[0] + 2 * convolved[0] + model.number("ssm.inner_size") + states


def _time_mix(model: ModelFile, hyper: Hyper, layer: Layer) -> int:
    """Of RWKV: what is mixed of each token and the one before, six ways, and what they become; of Gemma 3n its
    streams, predicted and corrected."""
    prefix = f"blk.{layer.number}."
    if model.shape(f"{prefix}altup_router.weight"):
        return 8 * hyper.width
    return 15 * hyper.width if model.shape(f"{prefix}time_mix_receptance.weight") else 0


def _per_layer_inputs(model: ModelFile) -> int:
    """Values that all layers are given apart, of models that have an embedding for each."""
    shape = model.shape("per_layer_token_embd.weight")
    return shape[-1] if shape else 0
