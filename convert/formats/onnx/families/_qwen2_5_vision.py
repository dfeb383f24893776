"""The vision tower of Qwen2.5-VL and Qwen2-VL as one graph: windows, positions and masks follow from image_grid_thw.

Elsewhere they are Python loops over the images, which no graph can hold. Here each is a closed form over the place of a
merge unit (merge x merge patches, one embedding of the output), so every shape follows from the number of patches:

    patches come frame by frame, in a frame by rows of units, in a unit by rows
    window order, in which the blocks run: frame by frame, in a frame by rows of windows, in a window by rows of units

A window has at most `side` x `side` units, fewer at the right and lower edges, and its units are neighbours in window
order. So rows are cut into chunks as large as a window, and a chunk looks at itself and the two beside it: memory grows
with the number of patches, not with its square. The last chunk is filled up with places beyond the last image; by the
closed forms they are windows of frames that nothing else looks at.

Qwen2-VL has no windows: then a window is one unit, so that both orders are the same, and all blocks see whole frames.
Weights, norms and MLPs are those of transformers' own modules.
Source: transformers, models/qwen2_5_vl/modeling_qwen2_5_vl.py, vision_utils.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from transformers import PretrainedConfig

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
    def of(cls, config: PretrainedConfig) -> Sizes:
        """Those of a vision config."""
        merge = config.spatial_merge_size
        side = config.window_size // merge // config.patch_size if hasattr(config, "window_size") else 1
        width = config.to_dict().get("embed_dim", config.hidden_size)  # Qwen2-VL's hidden_size is the text's
        return cls(merge, side, config.num_heads, width // config.num_heads)

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
    def of(cls, places: Tensor, frame: Frames, sizes: Sizes) -> Windows:
        """What is at `places` of window order."""
        side = sizes.side
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


def window_places(places: Tensor, frame: Frames, sizes: Sizes) -> Tensor:
    """The place in window order of the units at `places` of the input: the inverse of Windows.source."""
    side = sizes.side
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


class VisionEncoder(nn.Module):  # type: ignore[misc] # torch is not typed here
    """pixel_values (patch, values), image_grid_thw (image, 3) -> image_embeds (unit, hidden), in the images' order."""

    def __init__(self, visual: nn.Module, config: PretrainedConfig) -> None:
        super().__init__()
        self.visual = visual
        self._sizes = Sizes.of(config)
        self._full = frozenset(getattr(config, "fullatt_block_indexes", range(config.depth)))

    def forward(self, pixel_values: Tensor, image_grid_thw: Tensor) -> tuple[Tensor]:
        visual = self.visual
        sizes = self._sizes
        units = pixel_values.shape[0] // sizes.unit
        chunks = (units + sizes.side**2 - 1) // sizes.side**2
        places = torch.arange(chunks * sizes.side**2)
        frame = Frames.of(places, image_grid_thw, sizes.merge)  # the same in both orders: neither moves it
        at = Windows.of(places, frame, sizes)

        kernel = visual.patch_embed.proj.weight
        embedded = functional.linear(pixel_values, kernel.reshape(kernel.shape[0], -1))
        inside = torch.arange(sizes.unit)
        source = at.source.clamp(max=units - 1).unsqueeze(1) * sizes.unit + inside
        hidden = embedded.index_select(0, source.reshape(-1))

        angles = _angles(at, visual.rotary_pos_emb, sizes)
        near, far = Near.of(_patches(at.window, sizes), sizes), _mask(*_pairs(_patches(at.frame, sizes)))
        for number, block in enumerate(visual.blocks):
            query, key, value = _heads(block.attn.qkv(block.norm1(hidden)), angles, sizes)
            seen = _by_head(query, key, value, far) if number in self._full else near.attend(query, key, value)
            hidden = hidden + block.attn.proj(seen.transpose(0, 1).reshape(hidden.shape))
            hidden = hidden + block.mlp(block.norm2(hidden))
        original = window_places(places, frame, sizes).narrow(0, 0, units)
        return (visual.merger(hidden).index_select(0, original),)


def _patches(per_unit: Tensor, sizes: Sizes) -> Tensor:
    """A number a unit -> the same number for each of its patches."""
    return per_unit.unsqueeze(1).expand(-1, sizes.unit).reshape(-1)


def _angles(at: Windows, rotary: nn.Module, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine for query and key; (2, 1, patch, head_dim). The query's hold the scores' scale too."""
    inside = torch.arange(sizes.unit)
    row = at.row.unsqueeze(1) * sizes.merge + inside // sizes.merge
    column = at.column.unsqueeze(1) * sizes.merge + inside % sizes.merge
    positions = torch.stack([row, column], -1).reshape(-1, 2, 1).float()
    angles = (positions * rotary.inv_freq).reshape(-1, sizes.head_dim // 2)
    cos, sin = angles.cos(), angles.sin()
    scales = torch.tensor([sizes.head_dim**-0.5, 1.0]).reshape(2, 1, 1, 1) * rotary.attention_scaling
    return torch.cat([cos, cos], -1) * scales, torch.cat([-sin, sin], -1) * scales


def _heads(qkv: Tensor, angles: tuple[Tensor, Tensor], sizes: Sizes) -> tuple[Tensor, Tensor, Tensor]:
    """Query and key, both rotated, and value; (head, patch, head_dim) each."""
    by_head = qkv.reshape(-1, 3, sizes.heads, sizes.head_dim).permute(1, 2, 0, 3)
    both, value = by_head.split([2, 1])
    first, second = both.chunk(2, -1)
    cos, sin = angles
    query, key = (both * cos + torch.cat([second, first], -1) * sin).split(1)
    return query.squeeze(0), key.squeeze(0), value.squeeze(0)


@dataclass(frozen=True)
class Near:
    """Attention of each chunk to itself and the two beside it."""

    chunks: Tensor  # (chunk * 3,): those it looks at
    mask: Tensor  # (chunk, patch, 3 * patch): what is added to its scores

    @classmethod
    def of(cls, window: Tensor, sizes: Sizes) -> Near:
        """The masks that let patches see each other where their `window` (patch,) is the same."""
        by_chunk = window.reshape(-1, sizes.chunk)
        chunks = by_chunk.shape[0]
        beside = torch.arange(chunks).unsqueeze(1) + torch.arange(-1, 2)
        inside = beside.clamp(0, chunks - 1)
        seen = by_chunk.index_select(0, inside.reshape(-1)).reshape(chunks, 3, sizes.chunk)
        seen = torch.where((beside == inside).unsqueeze(2), seen, -1)  # no window begins at -1
        return cls(inside.reshape(-1), _mask(by_chunk.unsqueeze(2), seen.reshape(chunks, 1, 3 * sizes.chunk)))

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """What each patch sees of its window; (head, patch, head_dim)."""
        heads, patches, width = query.shape
        chunks, chunk, seen = self.mask.shape
        key, value = (
            rows.reshape(heads, chunks, chunk, width).index_select(1, self.chunks).reshape(heads, chunks, seen, width)
            for rows in (key, value)
        )
        return _attend(query.reshape(heads, chunks, chunk, width), key, value, self.mask).reshape(heads, patches, width)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attention of scaled queries; (..., patch, head_dim) all, and the mask (patch, patch)."""
    return torch.softmax(query @ key.transpose(-1, -2) + mask, -1) @ value


def _by_head(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """The same one head at a time; (head, patch, head_dim) all.

    Scores of all heads at once are 2.7 GB for a screen of 1428 x 896. Measured there, one block of the 7B on one core:
    ONNX Runtime needs 0.8 GB instead of 6.1 and half the time; OpenVINO and TensorRT fuse attention either way.
    """
    heads = zip(query.split(1), key.split(1), value.split(1), strict=True)
    return torch.cat([_attend(*head, mask) for head in heads])


def _pairs(numbers: Tensor) -> tuple[Tensor, Tensor]:
    return numbers.unsqueeze(1), numbers.unsqueeze(0)


def _mask(asking: Tensor, asked: Tensor) -> Tensor:
    """What is added to scores, so that only equal numbers see each other."""
    return torch.where(asking == asked, 0.0, MASKED)
