"""A transformers model of the right shapes that holds no weights: what gets traced.

Every parameter is one zero in memory, spread over its whole shape without a copy; buffers (rotary frequencies) are
real. Attention is ours: it never repeats keys for the heads that share them, and the mask is made once a graph.
"""

from __future__ import annotations

import contextlib
import contextvars
import inspect
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from validate.silence import silence_torchao

silence_torchao()  # before transformers, which looks whether it is there

# ruff: noqa: E402
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.modeling_utils import AttentionInterface, PreTrainedModel

from convert.errors import InputError
from convert.formats.onnx import experts, scans
from convert.formats.onnx.past import empty, layout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn
    from transformers import PretrainedConfig
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

    from convert.formats.onnx import experts, scans
from convert.formats.onnx.past import Layout

ATTENTION = "convert_onnx"  # the name under which transformers knows `attention` and `mask`
MASKED = torch.finfo(torch.float32).min  # not -inf: a row that sees nothing must give numbers, not NaN
LARGEST_BUFFER = 1 << 26  # values: 2048 positions of 32768 numbers
_AS_NODES: contextvars.ContextVar[bool] = contextvars.ContextVar("attention as nodes", default=False)
IN_MASK = frozenset({"position_ids", "cache_position"})  # tensors that say no more than the mask does


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
                model = _made(config, auto_class, attention_kind)
            experts.use(model)
            fill(model)
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ZeroDivisionError) as error:
            got = f"transformers makes no model of it ({type(error).__name__}: {_first_line(error)})"
            raise InputError("config.json", got, "a model transformers knows") from error
    return model.eval()


def _made(config: PretrainedConfig, auto_class: type[_BaseAutoModelClass], attention_kind: str) -> PreTrainedModel:
    """The model with our attention; of code that chooses among its own classes, with its plain one and our mask."""
    try:
        return auto_class.from_config(config, dtype=torch.float32, attn_implementation=attention_kind)
    except KeyError as error:
        if error.args != (ATTENTION,):
            raise
        model = auto_class.from_config(config, dtype=torch.float32, attn_implementation="eager")
        model.config._attn_implementation = ATTENTION
        return model


def fill(model: PreTrainedModel) -> None:
    """Give the parameters of a model on the meta device one zero each, and its buffers the values they start with.

    Buffers that are part of a checkpoint (a router's correction, a layer's factor) become parameters: their values are
    the checkpoint's.
    """
    _compute(model)
    for module in model.modules():
        for name in [name for name, buffer in module._buffers.items() if _is_stored(module, name, buffer)]:
            module.register_parameter(name, torch.nn.Parameter(module._buffers.pop(name), requires_grad=False))
    _start(model)
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        if kind == "longrope":
            _choose_frequencies(module, _long_or_short)
        elif kind == "dynamic":
            _choose_frequencies(module, _growing)
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


def _start(model: PreTrainedModel) -> None:
    """Give buffers the values they start with: some are written by their own module, some by the model around it.

    Parameters have no memory yet, for what starts a module off may write to them.
    """
    inside = [one for one in model.modules() if isinstance(one, PreTrainedModel)]  # the outer ones first
    owners = {module: one for one in inside for module in one.modules()}  # each starts what is its own
    started = []
    for module in model.modules():
        buffers = {name: buffer for name, buffer in module._buffers.items() if buffer is not None}
        if any(buffer.is_meta for buffer in buffers.values()):
            started.append((module, list(buffers)))
            for name, buffer in buffers.items():
                if buffer.numel() > LARGEST_BUFFER:
                    raise ValueError(f"{name} of {type(module).__name__} is too large: {tuple(buffer.shape)}")
                unknown = math.nan if buffer.is_floating_point() else 0
                module._buffers[name] = torch.full_like(buffer, unknown, device="cpu")
    for module in {**dict.fromkeys(module for module, _ in started), **dict.fromkeys(inside)}:
        owners[module]._init_weights(module)
    for module, names in started:
        if lost := [name for name in names if module._buffers[name].isnan().any()]:
            raise ValueError(f"{type(module).__name__} says of {', '.join(lost)} no value to start with")


def _is_stored(module: nn.Module, name: str, buffer: Tensor | None) -> bool:
    """Whether a buffer's numbers are saved with the model."""
    return buffer is not None and buffer.is_floating_point() and name not in module._non_persistent_buffers_set


def _choose_frequencies(rotary: nn.Module, frequencies_of: Callable[[nn.Module, Tensor], Tensor]) -> None:
    """Let a rotary embedding take the frequencies for the tokens so far without writing to itself, which no graph can.

    As transformers' dynamic_rope_update: `frequencies_of` gets their number, by the last position there is.
    """
    plain = inspect.unwrap(type(rotary).forward)

    def forward(states: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        chosen = frequencies_of(rotary, position_ids.max() + 1)
        return plain(_Instead(rotary, chosen), states, position_ids)  # type: ignore[no-any-return]

    rotary.forward = forward


class _Instead:
    """A rotary embedding with other frequencies."""

    def __init__(self, rotary: nn.Module, frequencies: Tensor) -> None:
        self.inv_freq, self.attention_scaling = frequencies, rotary.attention_scaling
        self.config, self.rope_type = rotary.config, rotary.rope_type


def _long_or_short(rotary: nn.Module, length: Tensor) -> Tensor:
    """longrope's: one set for the whole call, the long one beyond the length the model was first trained on."""
    limit = rotary.config.rope_parameters["original_max_position_embeddings"]
    long, _ = ROPE_INIT_FUNCTIONS["longrope"](rotary.config, "cpu", seq_len=limit + 1)
    return torch.where(length > limit, long, rotary.original_inv_freq)


def _growing(rotary: nn.Module, length: Tensor) -> Tensor:
    """The dynamic ones: they stretch with the text, beyond the length the model was trained on."""
    frequencies, _ = ROPE_INIT_FUNCTIONS[rotary.rope_type](rotary.config, "cpu", seq_len=length)
    return frequencies


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
    s_aux: Tensor | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """Softmax attention over (batch, heads, sequence, width); gives (batch, sequence, heads, width).

    `position_bias` (1, heads, queries, keys) is added to the scores as the mask is.
    Heads that share keys and values are rows of one matrix: the keys are not repeated, so that a step of decoding reads
    the cache once. `s_aux` (heads,) are logits that take part in the softmax and belong to no key.
    """
    if strange := [name for name, one in others.items() if isinstance(one, torch.Tensor) and name not in IN_MASK]:
        raise ValueError(f"its attention takes {', '.join(strange)}")
    if _AS_NODES.get() and s_aux is None:
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
    weights = _softmax(scores, attention_mask, heads, s_aux)
    mixed = weights @ value
    if heads != shared:
        mixed = mixed.reshape(batch, heads, -1, value.shape[-1])
    return mixed.transpose(1, 2).contiguous(), None  # models look at it in other shapes, as they may at transformers'


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


def _softmax(scores: Tensor, added: Tensor | None, heads: int, sinks: Tensor | None) -> Tensor:
    """The weights of masked scores; the mask is one for all heads, which for a moment lie apart.

    With a sink the sum of all exponentials grows by one: e^s / (sum + e^sink) = softmax(s) * sigmoid(log sum - sink).
    """
    batch, shared, _, keys = scores.shape
    if added is None and sinks is None:
        return torch.softmax(scores, dim=-1)
    apart = scores if heads == shared else scores.reshape(batch, heads, -1, keys)
    apart = apart if added is None else apart + added
    weights = torch.softmax(apart, dim=-1)
    if sinks is not None:
        weights = weights * torch.sigmoid(apart.logsumexp(-1, keepdim=True) - sinks.reshape(1, -1, 1, 1))
    return weights if heads == shared else weights.reshape(batch, shared, -1, keys)


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
    rows = torch.arange(batch_size)[:, None, None, None]
    seen = mask_function(rows, torch.zeros((1, 1, 1, 1), dtype=torch.long), queries, keys)
    if attention_mask is not None:
        seen = seen & attention_mask[:, None, None, :]
    return torch.where(seen, 0.0, MASKED)


def layout_of(model: PreTrainedModel, inputs: Mapping[str, Tensor], cache_name: str) -> Layout:
    """The cache that the model leaves when it reads these inputs; run without values, so that it costs no time.

    Raises InputError where transformers' own code cannot be run so.
    """
    cache = empty(model.config)
    try:
        with quiet(), torch.no_grad(), scans.in_place(model), FakeTensorMode(allow_non_fake_inputs=True) as fake:
            given = {name: fake.from_tensor(value) for name, value in inputs.items()}
            model(**given, **{cache_name: cache}, use_cache=True)
    except Exception as error:  # whatever its code raises
        kind = model.config.model_type
        got = f"'{kind}' cannot be run without values ({type(error).__name__}: {_first_line(error)})"
        raise InputError("config.json", got, "a model without decisions that depend on values") from error
    found = layout(model, cache)
    if not found.tensors:
        got = f"'{model.config.model_type}' keeps nothing of the tokens before, with this config"
        raise InputError("config.json", got, "a decoder of text")
    return found


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
