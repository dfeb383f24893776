"""What a layer with a state does from token to token, as a graph can hold it.

transformers' own functions for it loop in Python over tokens or chunks, as many as there are: no graph can be traced of
that. While a model is traced these stand in their place, found by the functions' names in the model's own file:

    mamba_selective_scan            Mamba: one step of a Scan a token
    mamba2_chunk_scan               Mamba 2: transformers' own, which has no loop, in shorter chunks
    torch_chunk_gated_delta_rule    Qwen3-Next's delta rule: chunks at once, one step of a Scan a chunk
    chunk_kimi_delta_attention      with a decay for every channel: one step of a Scan a token

All begin with the state that the cache holds, which is zeros before the first token; transformers' Mamba forgets it
where more than one token follows. Chunks are short, because a step of decoding is a whole one.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch._higher_order_ops.scan import scan_op
from torch.nn import functional

from convert.formats.onnx.past import STATE

if TYPE_CHECKING:
    from torch import Tensor, nn

DELTA_CHUNK, MAMBA_CHUNK = 16, 32  # tokens


def selective_scan(  # noqa: PLR0913, PLR0917 - transformers calls it so
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **_: object,
) -> Tensor | tuple[Tensor, Tensor]:
    """Mamba's recurrence; hidden_states and dt (batch, channel, token), B and C (batch, state, token)."""
    dt = dt if delta_bias is None else dt + delta_bias[..., None]
    dt = functional.softplus(dt) if delta_softplus else dt
    state = STATE.take()
    if state is None:
        state = hidden_states.new_zeros(hidden_states.shape[0], hidden_states.shape[1], A.shape[-1])

    def step(held: Tensor, *given: Tensor) -> list[Tensor]:
        x, d, b, c, a = given
        held = torch.exp(a * d[..., None]) * held + (d * x)[..., None] * b[:, None]
        return [held, (held * c[:, None]).sum(-1)]

    rows = [tensor.permute(2, 0, 1) for tensor in (hidden_states, dt, B, C)]
    last, output = scan_op(step, [state], rows, (A,))
    output = output.permute(1, 2, 0)
    output = output if D is None else output + hidden_states * D[None, :, None]
    output = output if z is None else output * functional.silu(z)
    return (output, last) if return_last_state else output


def delta_rule(  # noqa: PLR0913, PLR0917 - transformers calls it so
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **_: object,
) -> tuple[Tensor, Tensor | None]:
    """The gated delta rule over (batch, token, head, width); g and beta (batch, token, head).

    In a chunk, the values to be written depend on each other by a triangular system, I + L. L to the power of the
    chunk's length is zero, so its inverse is (I + P)(I + P^2)(I + P^4)... with P = -L.
    """
    batch, length, heads = key.shape[0], key.shape[1], value.shape[2]
    query, key = _prepared(query, key, heads, use_qk_l2norm_in_kernel)
    chunk, pad = DELTA_CHUNK, -length % DELTA_CHUNK

    def chunks(tensor: Tensor) -> Tensor:  # (batch, head, chunk, token, ...)
        after = (0, 0) * (tensor.ndim - 3) + (0, 0, 0, pad)
        return functional.pad(tensor, after).transpose(1, 2).unflatten(2, (-1, chunk))

    query, key, value, beta = chunks(query), chunks(key), chunks(value), chunks(beta.unsqueeze(-1))
    total = chunks(g.unsqueeze(-1)).cumsum(3)  # the log of what is left of the state at each token
    lower = torch.ones(chunk, chunk, dtype=torch.bool).tril()
    between = torch.where(lower, total - total.transpose(-1, -2), -torch.inf).exp()
    power = -((beta * key) @ key.transpose(-1, -2) * between).tril(-1)
    unit = torch.eye(chunk)
    inverse = unit + power
    for _doubling in range(chunk.bit_length() - 2):
        power = power @ power
        inverse = inverse @ (unit + power)
    written, read = inverse @ (beta * value), inverse @ (beta * key * total.exp())
    inside = query @ key.transpose(-1, -2) * between
    left = total[..., -1:, :]
    steps = (query * total.exp(), inside, written, read, key * (left - total).exp(), left.exp())
    state = key.new_zeros(batch, heads, key.shape[-1], value.shape[-1]) if initial_state is None else initial_state
    last, output = scan_op(_chunk_step, [state], [tensor.permute(2, 0, 1, 3, 4) for tensor in steps], ())
    output = output.permute(1, 0, 3, 2, 4).flatten(1, 2)[:, :length]
    return output, last if output_final_state else None


def _chunk_step(  # noqa: PLR0913, PLR0917 - what there is of a chunk
    state: Tensor, query: Tensor, inside: Tensor, written: Tensor, read: Tensor, key: Tensor, left: Tensor
) -> list[Tensor]:
    new = written - read @ state
    return [state * left + key.transpose(-1, -2) @ new, query @ state + inside @ new]


def channel_delta_rule(  # noqa: PLR0913, PLR0917 - transformers calls it so
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **_: object,
) -> tuple[Tensor, Tensor | None]:
    """The same with g (batch, token, head, width): every channel of the keys decays by itself."""
    query, key = _prepared(query, key, value.shape[2], use_qk_l2norm_in_kernel)
    state = initial_state
    if state is None:
        state = key.new_zeros(key.shape[0], *value.shape[2:3], key.shape[-1], value.shape[-1])

    def step(held: Tensor, *given: Tensor) -> list[Tensor]:
        q, k, v, d, b = given
        held = held * d.exp()[..., None]
        new = (v - (held * k[..., None]).sum(-2)) * b[..., None]
        held = held + k[..., None] * new[..., None, :]
        return [held, (held * q[..., None]).sum(-2)]

    last, output = scan_op(step, [state], [tensor.transpose(0, 1) for tensor in (query, key, value, g, beta)], ())
    return output.transpose(0, 1), last if output_final_state else None


def _prepared(query: Tensor, key: Tensor, heads: int, normalize: bool) -> tuple[Tensor, Tensor]:
    """Queries and keys of as many heads as the values have, perhaps of length 1, the queries scaled."""
    if key.shape[2] != heads:
        query, key = (tensor.repeat_interleave(heads // key.shape[2], dim=2) for tensor in (query, key))
    if normalize:
        query, key = (tensor * torch.rsqrt((tensor * tensor).sum(-1, keepdim=True) + 1e-6) for tensor in (query, key))
    return query * query.shape[-1] ** -0.5, key


def _shorter(original: Callable[..., object]) -> Callable[..., object]:
    """transformers' own function in chunks of MAMBA_CHUNK tokens: what comes out is the same."""

    @functools.wraps(original)
    def scan(*args: object, chunk_size: int, **others: object) -> object:
        return original(*args, chunk_size=min(chunk_size, MAMBA_CHUNK), **others)

    return scan


def _as(function: Callable[..., object]) -> Callable[[Callable[..., object]], Callable[..., object]]:
    return lambda original: function


INSTEAD: dict[str, Callable[[Callable[..., object]], Callable[..., object]]] = {
    "mamba_selective_scan": _as(selective_scan),
    "mamba2_chunk_scan": _shorter,
    "torch_chunk_gated_delta_rule": _as(delta_rule),
    "chunk_kimi_delta_attention": _as(channel_delta_rule),
}


@contextlib.contextmanager
def in_place(model: nn.Module) -> Iterator[None]:
    """Let the model's own files call these functions instead of theirs."""
    files = {type(module).__module__ for module in model.modules()}
    found = [(vars(sys.modules[file]), name) for file in sorted(files) for name in INSTEAD]
    before = [(names, name, names[name]) for names, name in found if name in names]
    for names, name, original in before:
        names[name] = INSTEAD[name](original)
    try:
        yield
    finally:
        for names, name, original in before:
            names[name] = original
