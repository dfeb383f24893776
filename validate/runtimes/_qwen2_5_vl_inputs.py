"""What a Qwen2.5-VL decoder graph wants beside its weights: positions along three axes, and images among the tokens.

Needs numpy only. `ids` is a prompt with the image token once for every row of image_embeds (`tokens_per_image` says how
many), `mask` is 1 for its tokens and 0 for padding in front; `pixels` and `grid` are what the image processor gives.

    import numpy as np, onnxruntime as ort
    from qwen2_5_vl_inputs import merge_images, next_position_ids, position_ids

    names = ("vision_encoder", "embed_tokens", "decoder_model_merged")
    vision, embed, decoder = (ort.InferenceSession(f"{name}.onnx") for name in names)
    seen = vision.run(None, {"pixel_values": pixels, "image_grid_thw": grid})[0]
    positions, deltas = position_ids(ids, mask, grid, image_token_id=image)
    embeds = merge_images(embed.run(None, {"input_ids": ids})[0], ids, seen, image)
    feeds = {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions}
    cache = [given for given in decoder.get_inputs() if given.name.startswith("past")]
    feeds |= {given.name: np.zeros((len(ids), given.shape[1], 0, given.shape[3]), "float32") for given in cache}
    logits, *present = decoder.run(None, feeds)

For the next token the mask is one longer, the positions are next_position_ids(mask, deltas), and `present` goes into
the inputs of `cache`, in the same order. The graphs of fp16 have a cache of float16: write that in place of float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

AXES = 3  # time, height, width


def position_ids(  # noqa: PLR0913 - what a prompt is, and what the model's config says
    input_ids: np.ndarray,
    attention_mask: np.ndarray | None = None,
    image_grid_thw: np.ndarray | None = None,
    *,
    image_token_id: int,
    spatial_merge_size: int = 2,
    video_token_id: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Positions int64 (3, batch, sequence) of a prompt, and how far each row's next token is from its own count.

    A text token has the same position on all axes. An image token has its frame, row and column, counted from where
    the image begins; text after it goes on behind the image's longer side. Padding has position 0.

    `deltas` int64 (batch, 1): position of the next token minus the number of tokens so far; for `next_position_ids`.
    Raises ValueError where images and tokens do not match, and for a video.
    """
    ids = np.asarray(input_ids)
    kept = np.ones(ids.shape, bool) if attention_mask is None else np.asarray(attention_mask).astype(bool)
    if video_token_id is not None and (ids[kept] == video_token_id).any():
        raise ValueError("input_ids hold a video, and positions are known here for images only")
    grids = _grids(image_grid_thw, spatial_merge_size)
    positions = np.zeros((AXES, *ids.shape), np.int64)
    deltas = np.zeros((len(ids), 1), np.int64)
    for row, (tokens, real) in enumerate(zip(ids, kept, strict=True)):
        own = _row(tokens[real] == image_token_id, grids)
        positions[:, row, real] = own
        deltas[row] = own.max(initial=-1) + 1 - own.shape[1]
    if (left := len(list(grids))) > 0:
        raise ValueError(f"image_grid_thw has {left} images more than input_ids")
    return positions, deltas


def next_position_ids(attention_mask: np.ndarray, deltas: np.ndarray, count: int = 1) -> np.ndarray:
    """Positions int64 (3, batch, count) of the last `count` tokens of a mask that has grown since `position_ids`."""
    places = np.cumsum(np.asarray(attention_mask, np.int64), axis=1)[:, -count:] - 1
    return np.broadcast_to(places + deltas, (AXES, len(places), count)).copy()


def merge_images(
    inputs_embeds: np.ndarray, input_ids: np.ndarray, image_embeds: np.ndarray, image_token_id: int
) -> np.ndarray:
    """inputs_embeds (batch, sequence, hidden) with the rows of image_embeds, in order, where the image tokens are."""
    places = np.asarray(input_ids) == image_token_id
    if int(places.sum()) != len(image_embeds):
        raise ValueError(
            f"input_ids hold {int(places.sum())} image tokens for {len(image_embeds)} rows of image_embeds"
        )
    merged = inputs_embeds.copy()
    merged[places] = image_embeds
    return merged


def tokens_per_image(image_grid_thw: np.ndarray, spatial_merge_size: int = 2) -> np.ndarray:
    """How many image tokens stand for each image; int64 (image,)."""
    patches: np.ndarray = np.asarray(image_grid_thw, np.int64).prod(axis=1)
    return patches // spatial_merge_size**2


def _grids(image_grid_thw: np.ndarray | None, merge: int) -> Iterator[tuple[int, int, int]]:
    """Frames, rows and columns of tokens of each image."""
    for frames, height, width in () if image_grid_thw is None else np.asarray(image_grid_thw).tolist():
        yield frames, height // merge, width // merge


def _row(image: np.ndarray, grids: Iterator[tuple[int, int, int]]) -> np.ndarray:
    """Positions (3, token) of one row's tokens; `image` (token,) says which of them are an image's."""
    positions = np.zeros((AXES, len(image)), np.int64)
    at = following = 0
    while at < len(image):
        if image[at]:
            grid = next(grids, None)
            if grid is None:
                raise ValueError("input_ids hold more images than image_grid_thw")
            own = np.indices(grid).reshape(AXES, -1)
            longest = max(grid[1:])
            if image[at : at + own.shape[1]].sum() < own.shape[1]:
                raise ValueError(f"an image of {own.shape[1]} tokens has fewer of them in input_ids")
        else:
            rest = np.flatnonzero(image[at:])
            longest = int(rest[0]) if len(rest) else len(image) - at
            own = np.broadcast_to(np.arange(longest), (AXES, longest))
        positions[:, at : at + own.shape[1]] = own + following
        at, following = at + own.shape[1], following + longest
    return positions
