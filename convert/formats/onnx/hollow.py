"""A transformers model of the right shapes that holds no weights: what gets traced.

Every parameter is one zero in memory, spread over its whole shape without a copy; buffers (rotary frequencies) are
real. Attention is ours: it never repeats keys for the heads that share them, and the mask is made once a graph.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch

from validate.silence import silence_torchao

silence_torchao()  # before transformers, which looks whether it is there

# ruff: noqa: E402
from transformers.cache_utils import Cache, DynamicLayer
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.modeling_utils import AttentionInterface

from convert.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

ATTENTION = "convert_onnx"  # the name under which transformers knows `attention` and `mask`
MASKED = torch.finfo(torch.float32).min  # not -inf: a row that sees nothing must give numbers, not NaN
LARGEST_BUFFER = 1 << 26  # values: 2048 positions of 32768 numbers
_AS_NODES: contextvars.ContextVar[bool] = contextvars.ContextVar("attention as nodes", default=False)
UNKNOWN = ("s_aux", "head_mask", "logit_bias")  # what other attentions take and this one does not


def hollow(
    config: PretrainedConfig, auto_class: type[_BaseAutoModelClass], attention_kind: str = ATTENTION
) -> PreTrainedModel:
    """The model of `config` in float32, ready to trace: `hollow(config, AutoModelForCausalLM)`.

    `attention_kind` is transformers' own word where a model knows no other implementations than its own.
    Raises InputError for a config that transformers makes no model of.
    """
    with quiet():
        try:
            with torch.device("meta"):
                model = auto_class.from_config(config, dtype=torch.float32, attn_implementation=attention_kind)
            fill(model)
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ZeroDivisionError) as error:
            got = f"transformers makes no model of it ({type(error).__name__}: {_first_line(error)})"
            raise InputError("config.json", got, "a model transformers knows") from error
    return model.eval()


def fill(model: PreTrainedModel) -> None:
    """Give the parameters of a model on the meta device one zero each, and its buffers the values they start with.

    Buffers that are part of a checkpoint (a router's correction, a layer's factor) become parameters: their values are
    the checkpoint's.
    """
    _compute(model)
    for module in model.modules():  # while parameters have no memory: what starts a module off may write to them
        for name in [name for name, buffer in module._buffers.items() if _is_stored(module, name, buffer)]:
            module.register_parameter(name, torch.nn.Parameter(module._buffers.pop(name), requires_grad=False))
        buffers = {name: buffer for name, buffer in module._buffers.items() if buffer is not None}
        if any(buffer.is_meta for buffer in buffers.values()):
            for name, buffer in buffers.items():
                if buffer.numel() > LARGEST_BUFFER:
                    raise ValueError(f"{name} of {type(module).__name__} is too large: {tuple(buffer.shape)}")
                unknown = math.nan if buffer.is_floating_point() else 0
                module._buffers[name] = torch.full_like(buffer, unknown, device="cpu")
            model._init_weights(module)
            if lost := [name for name in buffers if module._buffers[name].isnan().any()]:
                raise ValueError(f"{type(module).__name__} says of {', '.join(lost)} no value to start with")
        if getattr(module, "rope_type", None) == "longrope":
            _choose_frequencies(module)
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                spread = torch.zeros(()).expand(parameter.shape)
                module._parameters[name] = torch.nn.Parameter(spread, requires_grad=False)
    model.tie_weights()


def _compute(model: PreTrainedModel) -> None:
    """Make constants of the parameters that are never saved, with the values they start with: Marian's positions."""
    modules = dict(model.named_modules())
    for path in model._keys_to_ignore_on_save or ():
        inner, _, name = path.rpartition(".")
        if (module := modules.get(inner)) is None:
            continue
        parameter = module._parameters.get(name)
        if parameter is not None and parameter.is_meta:
            del module._parameters[name]
            module.register_buffer(name, torch.empty(parameter.shape, device="cpu"), persistent=False)
            model._init_weights(module)


def _is_stored(module: nn.Module, name: str, buffer: Tensor | None) -> bool:
    """Whether a buffer's numbers are saved with the model."""
    return buffer is not None and buffer.is_floating_point() and name not in module._non_persistent_buffers_set


def _choose_frequencies(rotary: nn.Module) -> None:
    """Let a longrope choose between its two sets of frequencies without writing to itself, which no graph can.

    As transformers' longrope_frequency_update: one set for the whole call, the long one where a position lies beyond
    the length the model was first trained on.
    """
    limit = rotary.config.rope_parameters["original_max_position_embeddings"]
    short = rotary.original_inv_freq
    long, _ = ROPE_INIT_FUNCTIONS["longrope"](rotary.config, "cpu", seq_len=limit + 1)

    def forward(states: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        frequencies = torch.where(position_ids.max() + 1 > limit, long, short)
        angles = position_ids[..., None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos() * rotary.attention_scaling, angles.sin() * rotary.attention_scaling

    rotary.register_buffer("long_inv_freq", long, persistent=False)
    rotary.forward = forward


def attention(  # noqa: PLR0913 - transformers calls it so
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    position_bias: Tensor | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """Softmax attention over (batch, heads, sequence, width); gives (batch, sequence, heads, width).

    `position_bias` (1, heads, queries, keys) is added to the scores as the mask is.
    Heads that share keys and values are rows of one matrix: the keys are not repeated, so that a step of decoding reads
    the cache once.
    """
    if strange := [name for name in UNKNOWN if others.get(name) is not None]:
        raise ValueError(f"its attention takes {', '.join(strange)}")
    if _AS_NODES.get():
        added = [bias for bias in (attention_mask, position_bias) if bias is not None]
        return _node(query, key, value, sum(added) if added else None, scaling, softcap), None
    batch, heads, _, width = query.shape
    shared = key.shape[1]
    query = query * (width**-0.5 if scaling is None else scaling)
    if heads != shared:  # (batch, shared, heads / shared * sequence, width)
        query = query.reshape(batch, shared, -1, width)
    scores = query @ key.transpose(-1, -2)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if position_bias is not None:
        attention_mask = position_bias if attention_mask is None else attention_mask + position_bias
    weights = _softmax(scores, attention_mask, heads)
    mixed = weights @ value
    if heads != shared:
        mixed = mixed.reshape(batch, heads, -1, value.shape[-1])
    return mixed.transpose(1, 2), None


def _node(  # noqa: PLR0913, PLR0917 - what an attention takes
    query: Tensor, key: Tensor, value: Tensor, added: Tensor | None, scaling: float | None, softcap: float | None
) -> Tensor:
    """The same as one node, ONNX's Attention of opset 23: a writer for an engine puts the engine's own in its place."""
    attributes = {"scale": float(query.shape[-1] ** -0.5 if scaling is None else scaling), "softcap": softcap or 0.0}
    shape = (*query.shape[:-1], value.shape[-1])
    inputs = (query, key, value) if added is None else (query, key, value, added)
    mixed: Tensor = torch.onnx.ops.symbolic("Attention", inputs, attributes, dtype=query.dtype, shape=shape)
    return mixed.transpose(1, 2)


@contextlib.contextmanager
def attention_nodes() -> Iterator[None]:
    """Attention that is traced inside is a single node, which no runtime of portable graphs is given."""
    token = _AS_NODES.set(True)
    try:
        yield
    finally:
        _AS_NODES.reset(token)


def _softmax(scores: Tensor, added: Tensor | None, heads: int) -> Tensor:
    """The weights of masked scores; the mask is one for all heads, which for a moment lie apart."""
    batch, shared, _, keys = scores.shape
    if added is None:
        return torch.softmax(scores, dim=-1)
    if heads == shared:
        return torch.softmax(scores + added, dim=-1)
    apart = scores.reshape(batch, heads, -1, keys) + added
    return torch.softmax(apart, dim=-1).reshape(batch, shared, -1, keys)


def mask(  # noqa: PLR0913, PLR0917 - transformers calls it so
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Tensor] = causal_mask_function,
    attention_mask: Tensor | None = None,
    **others: object,
) -> Tensor:
    """What is added to the scores, (batch or 1, 1, queries, keys): 0 where a query sees a key, MASKED elsewhere.

    `mask_function` is transformers' own for the layer (causal, sliding window, chunked); it works on index tensors.
    """
    queries = (torch.arange(q_length) + q_offset)[None, None, :, None]
    keys = (torch.arange(kv_length) + kv_offset)[None, None, None, :]
    rows = torch.zeros((1, 1, 1, 1), dtype=torch.long)
    seen = mask_function(rows, rows, queries, keys)
    if attention_mask is not None:
        seen = seen & attention_mask[:, None, None, :]
    return torch.where(seen, 0.0, MASKED)


class PastLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """A layer's keys and values; none at all is only a length of 0, so that one graph serves prefill and decoding."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def get_seq_length(self) -> int:
        length: int = self.keys.shape[-2]  # a symbol while it is traced: int() would make a constant of it
        return length


def past(tensors: Sequence[Tensor]) -> Cache:
    """The cache of the inputs key, value, key, value, ... of the layers in order."""
    pairs = zip(tensors[::2], tensors[1::2], strict=True)
    return Cache(layers=[PastLayer(keys, values) for keys, values in pairs])


def present(cache: Cache) -> tuple[Tensor, ...]:
    """The outputs that `past` takes back at the next step."""
    return tuple(tensor for layer in cache.layers for tensor in (layer.keys, layer.values))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch and transformers say about tracing from the user: what matters comes as an error."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.__trace", "transformers", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, mask)
