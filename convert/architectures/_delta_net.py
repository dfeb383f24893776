"""Gated delta nets, the recurrent layers of Qwen3-Next and Qwen3.5, between layers of gated attention."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, head_size_fields
from convert.architectures._graph_spec import PLUS_ONE, LeftOut, OutputTensor, SourceTensor, TensorRule, Transform, View
from convert.architectures._roles import TensorRole
from convert.architectures._rows import ENDS, NORMS, OUTPUT, QK_NORM, QKV, B, L
from convert.architectures._state_space import negative_exp
from convert.gguf_field import Field

KINDS = ("linear_attention", "full_attention")
DEFAULTS = {
    "head_dim": 256,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "rms_norm_eps": 1e-6,
}
"""What transformers takes where the config is silent."""

LN = f"{L}.linear_attn"
ALWAYS: tuple[TensorRule, ...] = (
    *ENDS,
    NORMS[0],
    (NORMS[1][0], f"{B}.post_attention_norm.weight", ("hidden",), "norm"),  # llama.cpp's name for it here
)
ATTENTION: tuple[TensorRule, ...] = (
    (QKV[0][0], QKV[0][1], ("q+q", "hidden")),  # of every head the query, then what its output is multiplied by
    *QKV[1:],
    *OUTPUT,
    *QK_NORM,
)
RECURRENT: tuple[TensorRule, ...] = (
    (f"{LN}.conv1d.weight", f"{B}.ssm_conv1d.weight", ("mixed", "one", "kernel"), "kernel"),
    (f"{LN}.dt_bias", f"{B}.ssm_dt.bias", ("value_heads",), "heads"),
    (f"{LN}.A_log", f"{B}.ssm_a", ("value_heads",), "decay"),
    (f"{LN}.norm.weight", f"{B}.ssm_norm.weight", ("value_head",)),
    (f"{LN}.out_proj.weight", f"{B}.ssm_out.weight", ("hidden", "value"), "columns"),
)
DRAFTS = LeftOut("", "a layer that predicts tokens further ahead", prefix="mtp.")


@dataclass(frozen=True)
class DeltaNet:
    """The numbers of the recurrent layers, checked; `recurrent` says of every layer whether it is one."""

    keys: int  # heads
    values: int
    key_head: int  # size of one
    value_head: int
    kernel: int  # tokens that a convolution looks at
    recurrent: tuple[bool, ...]

    @property
    def shared(self) -> int:
        """Value heads of one key head."""
        return self.values // self.keys

    def layers(self, recurrent: bool) -> list[int]:
        """The numbers of the layers of this kind."""
        return [i for i, kind in enumerate(self.recurrent) if kind is recurrent]


def read_delta_net(config: Config, layers: int) -> DeltaNet:
    """The recurrent layers a config describes; what is wrong with it is in `config.problems`."""
    keys, values = config.size("linear_num_key_heads"), config.size("linear_num_value_heads")
    if values % keys:
        config.complain("linear_num_value_heads", values, f"a multiple of linear_num_key_heads, {keys}")
        values = keys
    head = config.size("linear_key_head_dim")
    config.require("linear_value_head_dim", head, "llama.cpp's graph has keys and values of one size")
    interval = config.size("full_attention_interval", 4)
    kinds = config.words("layer_types", layers, KINDS)
    recurrent = tuple(kind == KINDS[0] for kind in kinds) or tuple((i + 1) % interval != 0 for i in range(layers))
    return DeltaNet(keys, values, head, head, config.size("linear_conv_kernel_dim"), recurrent)


def with_delta_net(decoder: Decoder, net: DeltaNet) -> Decoder:
    """The decoder with the dimensions that the rows here name."""
    key, value = net.keys * net.key_head, net.values * net.value_head
    return decoder.having(
        mixed=2 * key + value,
        key=key,
        value=value,
        value_heads=net.values,
        value_head=net.value_head,
        kernel=net.kernel,
        one=1,
    )


def delta_net_fields(decoder: Decoder, net: DeltaNet) -> list[Field]:
    """The hyper-parameters of such a model beyond a decoder's own."""
    numbers = {
        "ssm.conv_kernel": net.kernel,
        "ssm.state_size": net.key_head,
        "ssm.group_count": net.keys,
        "ssm.time_step_rank": net.values,
        "ssm.inner_size": net.values * net.value_head,
        "full_attention_interval": decoder.config.size("full_attention_interval", 4),
    }
    prefix = decoder.graph.name
    return [
        *head_size_fields(decoder),
        *(Field.uint32(f"{prefix}.{key}", number) for key, number in numbers.items()),
        Field.booleans(f"{prefix}.attention.recurrent_layers", net.recurrent),
    ]


def of_state_space(tensors: Iterable[SourceTensor]) -> tuple[SourceTensor, ...]:
    """The tensors of recurrent layers, whose projections have the names of attention's in a GGUF file."""
    return tuple(replace(tensor, stated_role=TensorRole.STATE_SPACE) for tensor in tensors)


def check_attention(config: Config) -> None:
    """Add the problems of attention that llama.cpp's graphs cannot compute."""
    config.require("attention_bias", False, "llama.cpp's graph has no such biases")


# -- the order of value heads ------------------------------------------------------------------------------------------


def tiled(net: DeltaNet, size: int) -> View:
    """A view of rows, `size` for each value head, with the heads of a key head apart.

    A checkpoint has k0v0 k0v1 k1v0 k1v1; ggml repeats the keys as k0 k1 k0 k1, so a file has k0v0 k1v0 k0v1 k1v1.
    """

    def view(rows: np.ndarray) -> np.ndarray:
        return rows.reshape(net.keys, net.shared, size, *rows.shape[1:]).swapaxes(0, 1)

    return view


def _tiled_behind_keys(net: DeltaNet) -> View:
    """A view of rows that make queries, keys and values: those of the values tiled."""
    place, values = 2 * net.keys * net.key_head, tiled(net, net.value_head)

    def view(rows: np.ndarray) -> np.ndarray:
        return np.concatenate([rows[:place], values(rows[place:]).reshape(-1, *rows.shape[1:])])

    return view


def _tiled_columns(net: DeltaNet) -> View:
    def view(weight: np.ndarray) -> np.ndarray:
        return weight.reshape(len(weight), net.keys, net.shared, net.value_head).swapaxes(1, 2)

    return view


def tiling(net: DeltaNet) -> dict[str, Transform]:
    """The transforms of a file whose value heads are tiled."""
    behind = _tiled_behind_keys(net)
    heads = tiled(net, 1)
    return {
        **grouping(),
        "heads": Transform(heads),
        "decay": Transform(heads, negative_exp),
        "values": Transform(tiled(net, net.value_head)),
        "columns": Transform(_tiled_columns(net)),
        "mixed": Transform(behind),
        "kernel": Transform(lambda weight: behind(weight[:, 0]), resized=_without_middle),
    }


def grouping() -> dict[str, Transform]:
    """The transforms of a file whose value heads are in the checkpoint's order."""
    return {
        "norm": PLUS_ONE,
        "decay": Transform(change=negative_exp),
        "kernel": Transform(lambda weight: weight[:, 0], resized=_without_middle),
    }


def _without_middle(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], shape[2])


def fused_projections(decoder: Decoder, net: DeltaNet, layers: Sequence[int]) -> list[SourceTensor]:
    """in_proj_qkvz of these layers: for every key head its rows of q, k, v and z -> all q, k and v, and all z."""
    sizes, hidden = decoder.sizes, decoder.hidden
    values = net.shared * net.value_head
    cuts = np.cumsum([net.key_head, net.key_head, values])

    def parts(rows: np.ndarray) -> list[np.ndarray]:
        split = np.split(rows.reshape(net.keys, -1, hidden), cuts, axis=1)
        return [part.reshape(-1, hidden) for part in split]

    def mixed(rows: np.ndarray) -> np.ndarray:
        return np.concatenate(parts(rows)[:3])

    def gate(rows: np.ndarray) -> np.ndarray:
        return parts(rows)[3]

    shape = (sizes["mixed"] + sizes["value"], hidden)
    return [
        SourceTensor(
            f"model.layers.{i}.linear_attn.in_proj_qkvz.weight",
            shape,
            (
                OutputTensor(f"blk.{i}.attn_qkv.weight", (sizes["mixed"], hidden), mixed),
                OutputTensor(f"blk.{i}.attn_gate.weight", (sizes["value"], hidden), gate),
            ),
        )
        for i in layers
    ]
