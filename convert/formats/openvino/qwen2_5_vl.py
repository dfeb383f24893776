"""Qwen2.5-VL's vision tower as OpenVINO GenAI runs it: patches first, then the blocks and the merger.

    openvino_vision_embeddings_model          hidden_states (patch, values) -> last_hidden_state (patch, width)
    openvino_vision_embeddings_merger_model   hidden_states (patch, width), attention_mask and window_attention_mask
        (1, patch, patch), window_index (unit), rotary_pos_emb (patch, head_dim / 2) -> last_hidden_state (unit, hidden)

Window order, masks and angles come from the caller, as C++ of openvino.genai makes them (qwen2_5_vl/classes.cpp); the
angles are in the images' order, both masks in that of the windows. Weights, norms and MLPs are transformers' modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from convert.formats.onnx.families import Input, TracedGraph

if TYPE_CHECKING:
    from transformers import PretrainedConfig

NAME = "model.visual"
UNITS = 6  # of the example: not 1, and no axis of another size


def vision(config: PretrainedConfig) -> list[TracedGraph]:
    """Both graphs of the tower."""
    from transformers import AutoModelForImageTextToText

    from convert.formats.onnx.hollow import hollow

    visual = hollow(config, AutoModelForImageTextToText).model.visual
    return [_patches(visual, config.vision_config), _merger(visual, config.vision_config)]


def _patches(visual: nn.Module, config: PretrainedConfig) -> TracedGraph:
    values = config.in_channels * config.temporal_patch_size * config.patch_size**2
    return TracedGraph(
        "vision_embeddings",
        Patches(visual.patch_embed),
        {"hidden_states": Input(torch.zeros(UNITS * config.spatial_merge_size**2, values), {0: "patches"})},
        ("last_hidden_state",),
        {"last_hidden_state": {0: "patches"}},
        parameters=_names("patch_embed", visual.patch_embed),
    )


def _merger(visual: nn.Module, config: PretrainedConfig) -> TracedGraph:
    patches = UNITS * config.spatial_merge_size**2
    mask = Input(torch.zeros(1, patches, patches), {1: "patches", 2: "patches"})
    head = config.hidden_size // config.num_heads
    own = {f"blocks.{name}": f"{NAME}.blocks.{name}" for name, _ in visual.blocks.named_parameters()}
    return TracedGraph(
        "vision_merger",
        Merger(visual, config),
        {
            "hidden_states": Input(torch.zeros(patches, config.hidden_size), {0: "patches"}),
            "attention_mask": mask,
            "window_attention_mask": Input(mask.example.clone(), mask.axes),
            "window_index": Input(torch.arange(UNITS), {0: "units"}),
            "rotary_pos_emb": Input(torch.zeros(patches, head // 2), {0: "patches"}),
        },
        ("last_hidden_state",),
        {"last_hidden_state": {0: "units"}},
        parameters=own | _names("merger", visual.merger),
    )


def _names(inner: str, module: nn.Module) -> dict[str, str]:
    return {f"{inner}.{name}": f"{NAME}.{inner}.{name}" for name, _ in module.named_parameters()}


class Patches(nn.Module):  # type: ignore[misc] # torch is not typed here
    """A patch's values -> its vector: the convolution reads no value twice, so it is one matrix."""

    def __init__(self, patch_embed: nn.Module) -> None:
        super().__init__()
        self.patch_embed = patch_embed

    def forward(self, hidden_states: Tensor) -> tuple[Tensor]:
        kernel = self.patch_embed.proj.weight
        return (functional.linear(hidden_states, kernel.reshape(kernel.shape[0], -1)),)


class Merger(nn.Module):  # type: ignore[misc] # torch is not typed here
    """The tower behind its patches."""

    def __init__(self, visual: nn.Module, config: PretrainedConfig) -> None:
        super().__init__()
        self.blocks, self.merger = visual.blocks, visual.merger
        self._unit, self._heads = config.spatial_merge_size**2, config.num_heads
        self._full = frozenset(config.fullatt_block_indexes)

    def forward(
        self, hidden_states: Tensor, everywhere: Tensor, windows: Tensor, window_index: Tensor, angles: Tensor
    ) -> tuple[Tensor]:
        hidden, angles = self._ordered(hidden_states, window_index), self._ordered(angles, window_index)
        turned = torch.cat([angles, angles], -1)
        turns = turned.cos(), turned.sin()
        for number, block in enumerate(self.blocks):
            mask = everywhere if number in self._full else windows
            hidden = hidden + block.attn.proj(self._attend(block.attn.qkv(block.norm1(hidden)), turns, mask))
            hidden = hidden + block.mlp(block.norm2(hidden))
        units = torch.arange(window_index.shape[0])
        original = torch.zeros_like(window_index).scatter(0, window_index, units)
        return (self.merger(hidden).index_select(0, original),)

    def _ordered(self, rows: Tensor, window_index: Tensor) -> Tensor:
        """Rows of patches, unit by unit in the order of the windows."""
        width = rows.shape[1]
        return rows.reshape(-1, self._unit * width).index_select(0, window_index).reshape(-1, width)

    def _attend(self, qkv: Tensor, turns: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        query, key, value = qkv.reshape(qkv.shape[0], 3, self._heads, -1).permute(1, 2, 0, 3).unbind(0)
        cos, sin = turns
        query, key = (rows * cos + _half_turned(rows) * sin for rows in (query, key))
        weights = torch.softmax(query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + mask, -1)
        return (weights @ value).transpose(0, 1).reshape(qkv.shape[0], -1)


def _half_turned(rows: Tensor) -> Tensor:
    first, second = rows.chunk(2, -1)
    return torch.cat([-second, first], -1)
