"""What families with recurrent layers share: how their small tensors are laid out, and the layers of Mamba 2."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from convert.architectures._config import Config
from convert.architectures._graph_spec import TensorRule, Transform
from convert.architectures._rows import B
from convert.gguf_field import Field


def exact_exp(values: np.ndarray) -> np.ndarray:
    """What the logarithms that checkpoints have are of, float32.

    Rounded once, from float64, so that every machine writes the same file: torch's float32 exp, which upstream's
    converter calls, is a last bit away for one value in a hundred, for others on another processor.
    """
    exact: np.ndarray = np.exp(values.astype(np.float64))
    return exact.astype(np.float32)


def negative_exp(values: np.ndarray) -> np.ndarray:
    """A, of its logarithm."""
    return -exact_exp(values)


def _squeeze(values: np.ndarray) -> np.ndarray:
    return values[:, 0]


def _column(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, 1)


KERNEL = Transform(_squeeze, resized=lambda shape: (shape[0], shape[2]))
"""A convolution of one channel at a time: (channels, 1, width) -> (channels, width)."""

DECAY = Transform(change=negative_exp)
"""A_log -> A."""

DECAY_COLUMN = Transform(_column, negative_exp, resized=lambda shape: (shape[0], 1))
"""A_log of a Mamba 2 -> A, with an axis that llama.cpp wants there: (heads) -> (heads, 1)."""

COLUMN = Transform(_column, resized=lambda shape: (shape[0], 1))
"""D of a Mamba 2: (heads) -> (heads, 1)."""


def grouped(groups: int) -> Transform:
    """A norm whose groups are an axis: (inner) -> (groups, inner / groups)."""
    return Transform(lambda values: values.reshape(groups, -1), resized=lambda shape: (groups, shape[0] // groups))


@dataclass(frozen=True)
class Mamba2:
    """The numbers of Mamba 2's layers, checked."""

    heads: int
    inner: int  # values of all heads
    groups: int  # heads that share B and C
    state: int
    kernel: int  # tokens that a convolution looks at

    @property
    def sizes(self) -> dict[str, int]:
        """The dimensions that `mamba2_rows` name."""
        mixed = self.inner + 2 * self.groups * self.state
        return {
            "ssm_heads": self.heads,
            "inner": self.inner,
            "mixed": mixed,
            "projected": self.inner + mixed + self.heads,
            "kernel": self.kernel,
            "one": 1,
        }

    @property
    def transforms(self) -> Mapping[str, Transform]:
        """Those of `mamba2_rows`."""
        return {"kernel": KERNEL, "decay": DECAY_COLUMN, "column": COLUMN, "groups": grouped(self.groups)}

    def fields(self, prefix: str) -> list[Field]:
        """The hyper-parameters, under an architecture's name."""
        numbers = {
            "conv_kernel": self.kernel,
            "state_size": self.state,
            "group_count": self.groups,
            "inner_size": self.inner,
            "time_step_rank": self.heads,  # llama.cpp has the number of heads there
        }
        return [Field.uint32(f"{prefix}.ssm.{key}", value) for key, value in numbers.items()]


def read_mamba2(config: Config, inner: int) -> Mamba2:
    """The layers under Bamba's names for their sizes; what is wrong with them is in `config.problems`."""
    heads, groups = config.size("mamba_n_heads"), config.size("mamba_n_groups")
    if inner % heads or heads % groups:
        wanted = f"a divisor of {inner}, the width of these layers, and a multiple of mamba_n_groups, {groups}"
        config.complain(config.key("mamba_n_heads"), heads, wanted)
        return Mamba2(1, inner, 1, 1, 1)
    if config.values.get(config.key("mamba_d_head")) != "auto":
        config.size("mamba_d_head", inner // heads)
        config.require("mamba_d_head", inner // heads, "the heads together are as wide as the layer")
    config.require("mamba_conv_bias", True, "llama.cpp's graph adds a bias to the convolution")
    config.require("mamba_proj_bias", False, "llama.cpp's graph has no such biases")
    check_time_step(config)
    return Mamba2(heads, inner, groups, config.size("mamba_d_state"), config.size("mamba_d_conv", 4))


def check_time_step(config: Config) -> None:
    """Add a problem where time steps are cut off, which llama.cpp does not do."""
    limits = config.values.get("time_step_limit")
    if isinstance(limits, list | tuple) and len(limits) == 2:
        low, high = limits
        unlimited = not isinstance(high, int | float) or math.isinf(high)  # JSON has several words for infinity
        if low == 0 and unlimited:
            return
    if limits is not None:
        config.complain("time_step_limit", limits, "[0.0, Infinity]", "llama.cpp's graph does not limit time steps")


def mamba_rows(layer: str) -> tuple[TensorRule, ...]:
    """The tensors of a layer of the first Mamba whose names begin with `layer`; transforms: KERNEL, DECAY."""
    return (
        (f"{layer}.in_proj.weight", f"{B}.ssm_in.weight", ("inner+inner", "hidden")),
        (f"{layer}.conv1d.weight", f"{B}.ssm_conv1d.weight", ("inner", "one", "kernel"), "kernel"),
        (f"{layer}.conv1d.bias", f"{B}.ssm_conv1d.bias", ("inner",)),
        (f"{layer}.x_proj.weight", f"{B}.ssm_x.weight", ("steps+state+state", "inner")),
        (f"{layer}.dt_proj.weight", f"{B}.ssm_dt.weight", ("inner", "steps")),
        (f"{layer}.dt_proj.bias", f"{B}.ssm_dt.bias", ("inner",)),
        (f"{layer}.A_log", f"{B}.ssm_a", ("inner", "state"), "decay"),
        (f"{layer}.D", f"{B}.ssm_d", ("inner",)),
        (f"{layer}.out_proj.weight", f"{B}.ssm_out.weight", ("hidden", "inner")),
    )


@dataclass(frozen=True)
class Mamba:
    """The numbers of the first Mamba's layers, checked."""

    inner: int
    state: int
    kernel: int
    steps: int  # rank of the projection that makes time steps

    @property
    def sizes(self) -> dict[str, int]:
        """The dimensions that `mamba_rows` name."""
        return {"inner": self.inner, "state": self.state, "kernel": self.kernel, "steps": self.steps, "one": 1}

    def fields(self, prefix: str) -> list[Field]:
        """The hyper-parameters, under an architecture's name."""
        numbers = {
            "conv_kernel": self.kernel,
            "inner_size": self.inner,
            "state_size": self.state,
            "time_step_rank": self.steps,
        }
        return [Field.uint32(f"{prefix}.ssm.{key}", value) for key, value in numbers.items()]


MAMBA: Mapping[str, Transform] = {"kernel": KERNEL, "decay": DECAY}
"""The transforms of `mamba_rows`."""


def read_mamba(config: Config, hidden: int) -> Mamba:
    """The layers under Jamba's names for their sizes; what is wrong with them is in `config.problems`."""
    config.require("mamba_expand", 2, "llama.cpp's graph has no other width")
    config.require("mamba_conv_bias", True, "llama.cpp's graph adds a bias to the convolution")
    config.require("mamba_proj_bias", False, "llama.cpp's graph has no such biases")
    steps = -(-hidden // 16)
    if config.values.get(config.key("mamba_dt_rank")) != "auto":
        steps = config.size("mamba_dt_rank", steps)
    return Mamba(2 * hidden, config.size("mamba_d_state", 16), config.size("mamba_d_conv", 4), steps)


def mamba2_rows(layer: str) -> tuple[TensorRule, ...]:
    """The tensors of a layer of Mamba 2 whose names begin with `layer`."""
    return (
        (f"{layer}.in_proj.weight", f"{B}.ssm_in.weight", ("projected", "hidden"), "projections"),
        (f"{layer}.conv1d.weight", f"{B}.ssm_conv1d.weight", ("mixed", "one", "kernel"), "kernel"),
        (f"{layer}.conv1d.bias", f"{B}.ssm_conv1d.bias", ("mixed",)),
        (f"{layer}.dt_bias", f"{B}.ssm_dt.bias", ("ssm_heads",)),
        (f"{layer}.A_log", f"{B}.ssm_a", ("ssm_heads",), "decay"),
        (f"{layer}.D", f"{B}.ssm_d", ("ssm_heads",), "column"),
        (f"{layer}.norm.weight", f"{B}.ssm_norm.weight", ("inner",), "groups"),
        (f"{layer}.out_proj.weight", f"{B}.ssm_out.weight", ("hidden", "inner"), "ssm_out"),
    )
