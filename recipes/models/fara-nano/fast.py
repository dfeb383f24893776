"""A forward pass for training: the modules of transformers' Qwen2.5-VL, on batches that all have one shape.

Every screenshot is SIDE x SIDE, so windows, positions and masks are computed once, and images are kept in window order
from the first layer to the merger. tests compare it with the model's own forward.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data import SIDE

GRID = SIDE // 28  # merged tokens a side: 8
WINDOWS = SIDE // 112  # attention windows a side: 2
MERGED = 4  # merged tokens a side of a window
IMAGE_TOKENS = GRID * GRID

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])


def patches(images_u8: Tensor) -> Tensor:
    """(image, patch in window order, channel * 14 * 14) of normalised pixels, from (image, SIDE, SIDE, 3) bytes."""
    pixels = (images_u8.float() / 255 - MEAN) / STD
    split = pixels.view(-1, WINDOWS, MERGED, 2, 14, WINDOWS, MERGED, 2, 14, 3)
    return split.permute(0, 1, 5, 2, 6, 3, 7, 9, 4, 8).reshape(len(images_u8), -1, 3 * 14 * 14)


def _rms(x: Tensor, norm: Any) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), norm.weight.to(x.dtype), norm.variance_epsilon)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat((-right, left), -1) * sin


def vision_angles(head: int) -> tuple[Tensor, Tensor]:
    """cos and sin, (patch in window order, head), of the vision tower's two-dimensional rope."""
    row = torch.arange(SIDE // 14).view(WINDOWS, 1, MERGED, 1, 2, 1).expand(WINDOWS, WINDOWS, MERGED, MERGED, 2, 2)
    column = row.permute(1, 0, 3, 2, 5, 4)
    frequency = 1.0 / 10000.0 ** (torch.arange(0, head // 2, 2).float() / (head // 2))
    angles = torch.cat([position.reshape(-1, 1).float() * frequency for position in (row, column)], -1)
    angles = torch.cat((angles, angles), -1)
    return angles.cos(), angles.sin()


def _vision_attention(attn: Any, x: Tensor, cos: Tensor, sin: Tensor, windows: int) -> Tensor:
    images, count, width = x.shape
    q, k, v = attn.qkv(x).view(images, count, 3, attn.num_heads, -1).unbind(2)
    cos, sin = cos.to(x.dtype)[:, None], sin.to(x.dtype)[:, None]
    q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
    q, k, v = (t.reshape(images * windows, count // windows, attn.num_heads, -1).transpose(1, 2) for t in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    out: Tensor = attn.proj(mixed.reshape(images, count, width))
    return out


def see(visual: Any, images_u8: Tensor) -> Tensor:
    """(image, IMAGE_TOKENS in raster order, hidden): what the vision tower makes of screenshots."""
    weight = visual.patch_embed.proj.weight.sum(2).flatten(1)  # the two frames of a still image are equal
    x = F.linear(patches(images_u8), weight)
    cos, sin = vision_angles(visual.blocks[0].attn.head_dim)
    for i, block in enumerate(visual.blocks):
        windows = 1 if i in visual.fullatt_block_indexes else WINDOWS * WINDOWS
        x = x + _vision_attention(block.attn, _rms(x, block.norm1), cos, sin, windows)
        x = x + block.mlp(_rms(x, block.norm2))
    merged = visual.merger.mlp(_rms(x, visual.merger.ln_q).view(len(x), IMAGE_TOKENS, -1))
    window_order = merged.view(len(x), WINDOWS, WINDOWS, MERGED, MERGED, -1)
    return window_order.transpose(2, 3).reshape(len(x), IMAGE_TOKENS, -1)


@dataclass(frozen=True)
class Layout:
    """Where each token of a batch stands: (3, token) positions for mrope, and which tokens each one may look at."""

    positions: Tensor  # (time, row, column) x token
    visible: Tensor | None  # (token, token); None: everything before it
    image_start: int = -1  # the first image token's index, or -1


def text_layout(length: int) -> Layout:
    """Plain text: one position a token."""
    return Layout(torch.arange(length).expand(3, length), None)


def click_layout(head: int, branches: int, branch: int) -> Layout:
    """`head` tokens, an image, then `branches` continuations of `branch` tokens that do not see each other."""
    grid = torch.stack(
        [
            torch.zeros(IMAGE_TOKENS, dtype=torch.long),
            torch.arange(GRID).repeat_interleave(GRID),
            torch.arange(GRID).repeat(GRID),
        ]
    )
    after = head + GRID + torch.arange(branch).repeat(branches)
    positions = torch.cat([torch.arange(head).expand(3, head), head + grid, after.expand(3, len(after))], 1)
    prefix, total = head + IMAGE_TOKENS, positions.shape[1]
    owner = torch.cat([torch.full((prefix,), -1), torch.arange(branches).repeat_interleave(branch)])
    visible = torch.ones(total, total, dtype=torch.bool).tril()
    visible &= (owner[None] == -1) | (owner[None] == owner[:, None])
    return Layout(positions, visible, head)


def text_angles(config: Any, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin, (token, head), of mrope: the first frequencies turn with time, the next with rows, then columns."""
    head = config.hidden_size // config.num_attention_heads
    frequency = 1.0 / config.rope_parameters["rope_theta"] ** (torch.arange(0, head, 2).float() / head)
    section = torch.tensor(config.rope_parameters["mrope_section"])
    axis = torch.arange(3).repeat_interleave(section)
    angles = positions.float()[axis].T * frequency
    angles = torch.cat((angles, angles), -1)
    return angles.cos(), angles.sin()


def _text_attention(
    attn: Any, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    batch, count, _ = x.shape
    q, k, v = (
        p(x).view(batch, count, -1, attn.head_dim).transpose(1, 2) for p in (attn.q_proj, attn.k_proj, attn.v_proj)
    )
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=visible is None)
    out: Tensor = attn.o_proj(mixed.transpose(1, 2).reshape(batch, count, -1))
    return out, (q[:, 0], k[:, 0])


def half_of(language: Any) -> int:
    """How many layers are half of them."""
    return len(language.layers) // 2


@dataclass(frozen=True)
class Reading:
    """What the text layers make of a batch."""

    last: Tensor  # (batch, token, hidden) after the last norm
    half_way: Tensor  # (batch, token, hidden) after the first half of the layers
    query: Tensor  # (batch, token, head width) of the first head in the layer after that
    key: Tensor  # the same; with the query, what that head looks at


def read(language: Any, ids: Tensor, layout: Layout, image: Tensor | None = None, layers: int | None = None) -> Reading:
    """Runs all text layers, or so many; `image` takes the image tokens' places."""
    x = language.embed_tokens(ids)
    if image is not None:
        start, end = layout.image_start, layout.image_start + IMAGE_TOKENS
        x = torch.cat([x[:, :start], image.to(x.dtype), x[:, end:]], 1)
    cos, sin = text_angles(language.config, layout.positions)
    half_way, query, key = x, x, x
    for i, layer in enumerate(language.layers[:layers]):
        mixed, looks = _text_attention(layer.self_attn, _rms(x, layer.input_layernorm), cos, sin, layout.visible)
        if i == half_of(language):
            half_way, (query, key) = x, looks
        x = x + mixed
        x = x + layer.mlp(_rms(x, layer.post_attention_layernorm))
    return Reading(_rms(x, language.norm), x if layers == half_of(language) else half_way, query, key)
