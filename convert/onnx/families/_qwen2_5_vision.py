"""Qwen2.5-VL's vision tower as one graph: windows, positions and masks are computed from image_grid_thw inside it.

Elsewhere they are Python loops over the images, which no graph can hold. Here each is a closed form over the place of a
merge unit (merge x merge patches, one embedding of the output), so every shape follows from the number of patches:

    patches come frame by frame, in a frame by rows of units, in a unit by rows
    window order, in which the blocks run: frame by frame, in a frame by rows of windows, in a window by rows of units

A window has at most `side` x `side` units, fewer at the right and lower edges, and its units are neighbours in window
order. So rows are cut into chunks as large as a window, and a chunk looks at itself and the two beside it: memory grows
with the number of patches, not with its square. The last chunk is filled up with places beyond the last image; by the
closed forms they are windows of frames that nothing else looks at.

Weights, norms and MLPs are those of transformers' own modules.
Source: transformers, models/qwen2_5_vl/modeling_qwen2_5_vl.py, vision_utils.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# What a masked score gets: softmax makes it exactly 0, and it is a number in every 16-bit type.
MASKED = -3e4


@dataclass(frozen=True)
class Sizes:
    """The tower's fixed numbers."""

    merge: int  # a unit is merge x merge patches
    side: int  # a window is side x side units
    heads: int
    head_dim: int

    @classmethod
    def of(cls, config: Any) -> Sizes:
        """Those of a vision config."""
        merge = config.spatial_merge_size
        side = config.window_size // merge // config.patch_size
        return cls(merge, side, config.num_heads, config.hidden_size // config.num_heads)

    @property
    def unit(self) -> int:
        """Patches in a unit."""
        return self.merge**2

    @property
    def chunk(self) -> int:
        """Patches in a chunk: what the largest window has."""
        return self.side**2 * self.unit


@dataclass(frozen=True)
class Frames:
    """The frame each place lies in; all (place,)."""

    start: Tensor  # the place of its first unit, equal within one frame only
    rows: Tensor  # units
    columns: Tensor

    @classmethod
    def of(cls, places: Tensor, grid: Tensor, merge: int) -> Frames:
        """Those of unit `places` among images of `grid` (image, 3). Places beyond the last image continue it."""
        frames, height, width = grid.unbind(1)
        rows, columns = _quotient(height, merge), _quotient(width, merge)
        sizes = rows * columns
        units = frames * sizes
        starts = units.cumsum(0) - units
        image = (places.unsqueeze(1) >= starts.unsqueeze(0)).sum(1) - 1
        start, size = starts.index_select(0, image), sizes.index_select(0, image)
        start = start + _quotient(places - start, size) * size
        return cls(start, rows.index_select(0, image), columns.index_select(0, image))


@dataclass(frozen=True)
class Windows:
    """Places in window order, and where they come from; (place,) each, `place` a multiple of a chunk's units."""

    source: Tensor  # the unit's place in the input
    row: Tensor  # of units, in its frame
    column: Tensor
    window: Tensor  # the window's first place, equal within one window only
    frame: Tensor

    @classmethod
    def of(cls, places: Tensor, grid: Tensor, sizes: Sizes) -> Windows:
        """What is at `places` of window order."""
        frame, side = Frames.of(places, grid, sizes.merge), sizes.side
        inside = places - frame.start
        band = _quotient(inside, side * frame.columns)  # a row of windows
        height = (frame.rows - band * side).clamp(max=side)
        in_band = inside - band * side * frame.columns
        across = _quotient(in_band, side * height)
        width = (frame.columns - across * side).clamp(max=side)
        in_window = in_band - across * side * height
        down = _quotient(in_window, width)
        row, column = band * side + down, across * side + in_window - down * width
        return cls(
            source=frame.start + row * frame.columns + column,
            row=row,
            column=column,
            window=places - in_window,
            frame=frame.start,
        )


def window_places(places: Tensor, grid: Tensor, sizes: Sizes) -> Tensor:
    """The place in window order of the units at `places` of the input: the inverse of Windows.source."""
    frame, side = Frames.of(places, grid, sizes.merge), sizes.side
    inside = places - frame.start
    row = _quotient(inside, frame.columns)
    column = inside - row * frame.columns
    band, across = _quotient(row, side), _quotient(column, side)
    height = (frame.rows - band * side).clamp(max=side)
    width = (frame.columns - across * side).clamp(max=side)
    before = band * side * frame.columns + across * side * height
    return frame.start + before + (row - band * side) * width + column - across * side


def _quotient(a: Tensor, b: Tensor | int) -> Tensor:
    """a // b of whole numbers that are not negative."""
    if torch.onnx.is_in_onnx_export():  # ONNX's own Div; torch's floor_divide would be nine nodes that mend signs
        b = b if isinstance(b, Tensor) else torch.tensor(b, dtype=a.dtype)
        shape = torch.broadcast_shapes(a.shape, b.shape)
        return torch.onnx.ops.symbolic("Div", (a, b), dtype=a.dtype, shape=shape)
    return torch.div(a, b, rounding_mode="floor")


class VisionEncoder(nn.Module):
    """pixel_values (patch, values), image_grid_thw (image, 3) -> image_embeds (unit, hidden), in the images' order."""

    def __init__(self, visual: nn.Module, config: Any) -> None:
        super().__init__()
        self.visual = visual
        self._sizes = Sizes.of(config)
        self._full = frozenset(config.fullatt_block_indexes)

    def forward(self, pixel_values: Tensor, image_grid_thw: Tensor) -> tuple[Tensor]:
        visual: Any = self.visual
        sizes = self._sizes
        units = pixel_values.shape[0] // sizes.unit
        chunk_units = sizes.side**2
        chunks = (units + chunk_units - 1) // chunk_units
        at = Windows.of(torch.arange(chunks * chunk_units), image_grid_thw, sizes)

        kernel = visual.patch_embed.proj.weight
        hidden = functional.linear(pixel_values, kernel.reshape(kernel.shape[0], -1))
        by_unit = hidden.reshape(units, -1).index_select(0, at.source.clamp(max=units - 1))
        hidden = by_unit.reshape(-1, hidden.shape[1])

        angles = _angles(at, visual.rotary_pos_emb, sizes)
        neighbours, near = _near(at.window, sizes)
        everywhere = _far(at.frame, sizes)
        for number, block in enumerate(visual.blocks):
            query, key, value = _rotated(block.attn.qkv(block.norm1(hidden)), angles, sizes)
            if number in self._full:
                seen = _attend_all(query, key, value, everywhere)
            else:
                seen = _attend_near(query, key, value, near, neighbours, sizes)
            hidden = hidden + block.attn.proj(seen)
            hidden = hidden + block.mlp(block.norm2(hidden))
        places = window_places(torch.arange(units), image_grid_thw, sizes)
        return (visual.merger(hidden).index_select(0, places),)


def _patches(per_unit: Tensor, sizes: Sizes) -> Tensor:
    """A number a unit -> the same number for each of its patches."""
    return per_unit.unsqueeze(1).expand(-1, sizes.unit).reshape(-1)


def _angles(at: Windows, rotary: Any, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine for query and key; (patch, 2, 1, head_dim). The query's hold the scores' scale too."""
    in_row, in_column = torch.arange(sizes.unit) // sizes.merge, torch.arange(sizes.unit) % sizes.merge
    row = at.row.unsqueeze(1) * sizes.merge + in_row
    column = at.column.unsqueeze(1) * sizes.merge + in_column
    positions = torch.stack([row, column], -1).reshape(-1, 2, 1).float()
    angles = (positions * rotary.inv_freq).reshape(-1, 1, 1, sizes.head_dim // 2)
    cos, sin = angles.cos(), angles.sin()
    scales = torch.tensor([sizes.head_dim**-0.5, 1.0]).reshape(1, 2, 1, 1) * rotary.attention_scaling
    return torch.cat([cos, cos], -1) * scales, torch.cat([-sin, sin], -1) * scales


def _rotated(qkv: Tensor, angles: tuple[Tensor, Tensor], sizes: Sizes) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value; (patch, head, head_dim) each."""
    both, value = qkv.reshape(-1, 3, sizes.heads, sizes.head_dim).split([2, 1], 1)
    first, second = both.chunk(2, -1)
    cos, sin = angles
    query, key = (both * cos + torch.cat([second, first], -1) * sin).unbind(1)
    return query, key, value.squeeze(1)


def _near(window: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """The chunks each chunk looks at (chunk * 3,), and what is added to its scores (chunk, 1, patch, 3 * patch)."""
    by_chunk = _patches(window, sizes).reshape(-1, sizes.chunk)
    chunks = by_chunk.shape[0]
    beside = torch.arange(chunks).unsqueeze(1) + torch.arange(-1, 2)
    inside = beside.clamp(0, chunks - 1).reshape(-1)
    seen = by_chunk.index_select(0, inside).reshape(chunks, 3, sizes.chunk)
    seen = torch.where((beside.reshape(-1) == inside).reshape(chunks, 3, 1), seen, -1)  # no window begins at -1
    return inside, _mask(by_chunk.unsqueeze(2), seen.reshape(chunks, 1, -1)).unsqueeze(1)


def _far(frame: Tensor, sizes: Sizes) -> Tensor:
    """What is added to the scores where a patch looks at its whole frame; (patch, patch)."""
    frame = _patches(frame, sizes)
    return _mask(frame.unsqueeze(1), frame.unsqueeze(0))


def _mask(asking: Tensor, asked: Tensor) -> Tensor:
    return torch.where(asking == asked, 0.0, MASKED)


def _attend_all(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """What each patch sees of its frame; (patch, hidden)."""
    scores = query.transpose(0, 1) @ key.permute(1, 2, 0) + mask
    seen = scores.softmax(-1) @ value.transpose(0, 1)
    return seen.transpose(0, 1).reshape(query.shape[0], -1)


def _attend_near(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, neighbours: Tensor, sizes: Sizes) -> Tensor:
    """What each patch sees of its window; (patch, hidden)."""
    chunked = (-1, sizes.chunk, sizes.heads, sizes.head_dim)
    wide = (-1, 3 * sizes.chunk, sizes.heads, sizes.head_dim)
    key, value = (rows.reshape(chunked).index_select(0, neighbours).reshape(wide) for rows in (key, value))
    scores = query.reshape(chunked).transpose(1, 2) @ key.permute(0, 2, 3, 1) + mask
    seen = scores.softmax(-1) @ value.transpose(1, 2)
    return seen.transpose(1, 2).reshape(query.shape[0], -1)
