"""The buffer that a projector needs to encode an image of the size that llama.cpp reserves it for when it starts.

That is a square: of so many tokens for towers that take any size, the tower's own size for the others. For a larger
image the buffer grows when the image comes. Flash attention is on where the machine has it, else scores of
patches x patches x heads are added. Source: set_warmup_n_tokens and build_vit of tools/mtmd/clip.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

from convert.estimate.cache import FLOAT32
from convert.estimate.compute import FLOAT16
from convert.estimate.model_file import ModelFile

SIDES = {  # projector -> tokens a side of the square
    **dict.fromkeys(("qwen2vl_merger", "qwen2.5vl_merger", "qwen3vl_merger", "ling3vl", "glm4v", "glm5v"), 46),
    **dict.fromkeys(("dots_ocr", "dots3note_v", "mimovl", "exaone4_5"), 46),
    **dict.fromkeys(("pixtral", "lightonocr", "kimivl", "gemma4v", "gemma4uv", "phi4", "youtuvl", "minimax_m3"), 16),
    **dict.fromkeys(("muse-glimmer", "hunyuanvl"), 32),
    "paddleocr": 28,
}
MERGES = {  # patches a side of a token, where the file does not say
    **dict.fromkeys(("pixtral", "lightonocr", "phi4", "kimivl"), 1),
    "gemma4v": 3,
    "gemma4uv": 3,
}


HOLES = frozenset(
    {"qwen2vl_merger", "qwen2.5vl_merger"}
)  # where what goes into a layer may fit the place of the pixels


@dataclass(frozen=True)
class Tower:
    """The numbers of a vision tower, and the patches of the image that llama.cpp reserves for."""

    projector: str
    width: int
    inner: int
    is_gated: bool
    has_windows: bool
    hands_on: bool  # what some of its layers give, to layers of the language model
    patches: int
    patch: int  # pixels a side


def read_tower(projector: ModelFile) -> Tower | None:
    """None where the file has no vision tower."""
    width, patch = _number(projector, "embedding_length"), _number(projector, "patch_size")
    if not width or not patch:
        return None
    kind = str(projector.fields.get("clip.vision.projector_type", projector.fields.get("clip.projector_type", "")))
    merge = _number(projector, "spatial_merge_size") or _number(projector, "projector.scale_factor")
    merge = merge or MERGES.get(kind, 2)
    side = SIDES[kind] * merge if kind in SIDES else _number(projector, "image_size") // patch
    return Tower(
        kind,
        width,
        _number(projector, "feed_forward_length"),
        bool(projector.shape("v.blk.0.ffn_gate.weight")),
        _number(projector, "n_wa_pattern") > 0,
        any(key.startswith("clip.vision.is_deepstack") for key in projector.fields),
        side * side,
        patch,
    )


def projector_compute_bytes(projector: ModelFile) -> int:
    """Of the buffer; 0 where the file has no vision tower."""
    tower = read_tower(projector)
    if tower is None:
        return 0
    mask = FLOAT16 * tower.patches**2 if tower.has_windows else 0  # which patches see which
    inner = (3 if tower.is_gated else 1) * tower.inner
    return mask + FLOAT32 * tower.patches * (inner + _beside(tower))


def _beside(tower: Tower) -> int:
    """Values a patch beside what is fed forward: the residual, and what the allocator cannot put into holes."""
    if tower.projector in HOLES:
        pixels = 3 * tower.patch**2
        return pixels + (2 * tower.width if 2 * tower.width > pixels else 0)
    times = 4 if tower.is_gated else 3
    return tower.width * (times + 2 * tower.hands_on)


def _number(projector: ModelFile, key: str) -> int:
    value = projector.fields.get(f"clip.vision.{key}")
    return value if isinstance(value, int) else 0
