"""The contract of a decoder's graph: transformers' logits, however it is called, and every precision that loads.

What is tried: one token and seven; three texts of different lengths padded in front, and what follows them behind a
past; forty tokens, the last of them one at a time.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.onnx.graphs import TextGraph, export, open_graph, reference_logits, reference_model

LIMIT = 1e-4  # largest difference of a logit
PRECISIONS = ("fp32", "fp16", "int8", "int4")
DECODERS = (  # tiny checkpoints of families that transformers has a decoder of
    *("llama", "qwen2", "qwen3", "mistral3", "phi", "phi3", "gemma", "gemma2", "gemma3", "gemma3n", "gemma4", "gpt2"),
    *("gpt_neox", "bloom", "mpt", "falcon", "starcoder", "starcoder2", "stablelm", "cohere", "cohere2", "olmo"),
    *("olmo2", "glm", "glm4", "granite", "granite_swa", "smollm3", "llama4", "exaone4", "arcee", "seed_oss"),
    *("ernie4_5", "hunyuan_v1_dense", "nemotron", "minicpm3", "youtu", "jais2", "internlm3", "mellum"),
    *("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "granitemoe_swa", "dots1", "ernie4_5_moe"),
    *("exaone_moe", "glm4_moe", "hunyuan_v1_moe", "hy_v3", "minimax_m2", "laguna", "afmoe", "dbrx", "solar_open"),
    *("cohere2_moe", "mimo2", "lfm2", "lfm2_moe", "mamba", "mamba2", "falcon_h1", "jamba", "bamba", "granite_hybrid"),
    *("nemotron_h", "qwen3_next", "kimi_linear"),
)
IMAGES: tuple[str, ...] = ("gemma3_vision", "idefics3", "internvl", "llava")
GRIDS: tuple[str, ...] = ("qwen2_vl",)


@dataclass(frozen=True)
class Measured:
    """What was found of one class."""

    apart: float  # the largest difference of a logit, float32
    precisions: tuple[str, ...]  # that load and give numbers


def measure(source: Path, out: Path) -> Measured:
    """Export a checkpoint in every precision, and compare. Raises AssertionError for a NaN."""
    export(source, out, precision=PRECISIONS)
    apart = max(differences(source, TextGraph(out / "model.onnx")))
    loaded = [name for name, file in FILES.items() if _answers(out / file)]
    return Measured(apart, tuple(loaded))


FILES = {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "int8": "model_int8.onnx", "int4": "model_q4.onnx"}


def tokens_of(batch: int, sequence: int) -> np.ndarray:
    return np.random.default_rng(sequence).integers(3, 300, (batch, sequence))


def differences(source: Path, graph: TextGraph) -> Iterator[float]:
    """The largest difference of each call."""
    for sequence in (1, 7):
        tokens = tokens_of(1, sequence)
        yield apart(graph(tokens)[0], reference_logits(source, tokens))
    yield from _padded(source, graph)
    tokens = tokens_of(1, 40)
    wanted = reference_logits(source, tokens)
    logits, cache = graph(tokens[:, :33])
    yield apart(logits, wanted[:, :33])
    logits, cache = graph(tokens[:, 33:37], cache)
    yield apart(logits, wanted[:, 33:37])
    for at in range(37, 40):
        logits, cache = graph(tokens[:, at : at + 1], cache)
        yield apart(logits, wanted[:, at : at + 1])


def _padded(source: Path, graph: TextGraph) -> Iterator[float]:
    tokens = tokens_of(3, 9)
    mask = np.ones_like(tokens)
    mask[0, :4] = 0
    mask[2, :1] = 0
    wanted = reference_logits(source, tokens, mask)
    logits, cache = graph(tokens[:, :6], mask=mask[:, :6])
    yield apart(logits, wanted[:, :6], mask[:, :6])
    logits, _ = graph(tokens[:, 6:], cache, mask)
    yield apart(logits, wanted[:, 6:])


def apart(got: np.ndarray, wanted: np.ndarray, mask: np.ndarray | None = None) -> float:
    """The largest difference where the mask is 1, and nowhere a NaN."""
    assert got.shape == wanted.shape
    assert np.isfinite(got).all()
    return float(np.abs(got - wanted)[... if mask is None else mask == 1].max())


def _answers(path: Path) -> bool:
    graph = TextGraph(path)
    _, cache = graph(tokens_of(2, 5))
    logits, _ = graph(tokens_of(2, 1), cache)
    return bool(np.isfinite(logits).all())


# ---- images


def measure_images(source: Path, out: Path) -> Measured:
    """The same of a model with a vision tower: its image features, text alone, and text around two images."""
    export(source, out, precision=PRECISIONS)
    apart_ = max(image_differences(source, ImageGraphs(out)))
    loaded = [name for name, suffix in SUFFIXES.items() if ImageGraphs(out, suffix).answers()]
    return Measured(apart_, tuple(loaded))


SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_int8", "int4": "_q4"}


class ImageGraphs:
    """The three graphs of a model that takes images of one size."""

    def __init__(self, folder: Path, suffix: str = "") -> None:
        self.decoder = TextGraph(folder / f"decoder_model_merged{suffix}.onnx")
        self._embed = open_graph(folder / f"embed_tokens{suffix}.onnx")
        self._vision = open_graph(folder / f"vision_encoder{suffix}.onnx")

    def pixels(self) -> dict[str, np.ndarray]:
        """Noise in the place of two images."""
        pixels, *masks = self._vision.get_inputs()
        shape = [size if isinstance(size, int) else 2 if size == "images" else 1 for size in pixels.shape]
        noise = np.random.default_rng(0).standard_normal(shape, np.float32)
        given = {pixels.name: noise}
        return given | {mask.name: np.ones((*shape[:2], *shape[3:]), bool) for mask in masks}

    def features(self, given: dict[str, np.ndarray]) -> np.ndarray:
        return self._vision.run(None, given)[0]  # type: ignore[no-any-return]

    def embeds(self, ids: np.ndarray, token: int, features: np.ndarray | None = None) -> np.ndarray:
        embeds = self._embed.run(None, {"input_ids": ids})[0]
        if features is not None:
            embeds[ids == token] = features
        return embeds  # type: ignore[no-any-return]

    def answers(self) -> bool:
        features = self.features(self.pixels())
        ids = np.full((1, len(features)), 5)
        logits, _ = self.decoder(ids, embeds=self.embeds(ids, 5, features))
        return bool(np.isfinite(logits).all())


def image_differences(source: Path, graphs: ImageGraphs) -> Iterator[float]:
    """The largest difference of each call."""
    import torch

    model = reference_model(source, images=True)
    config = model.config
    token = getattr(config, "image_token_id", None) or config.image_token_index
    given = graphs.pixels()
    features = graphs.features(given)
    tensors = {name: torch.from_numpy(value) for name, value in given.items()}
    with torch.no_grad():
        made = model.get_image_features(**tensors).pooler_output
    rows = made if isinstance(made, torch.Tensor) else torch.cat(list(made))
    yield apart(features, rows.reshape(-1, rows.shape[-1]).numpy())
    ids = tokens_of(1, 9)
    wanted = reference_logits(source, ids, images=True)
    yield apart(graphs.decoder(ids, embeds=graphs.embeds(ids, token))[0], wanted)
    image = np.full((1, len(features) // 2), token)
    ids = np.concatenate([ids[:, :3], image, ids[:, 3:5], image, ids[:, 5:]], 1)
    mask = np.ones_like(ids)
    types = (ids == token).astype(np.int64)
    if "token_type_ids" in inspect.signature(model.forward).parameters:
        tensors["token_type_ids"], mask = torch.from_numpy(types), mask + types
    wanted = reference_logits(source, ids, images=True, **tensors)
    embeds = graphs.embeds(ids, token, features)
    first = ids.shape[1] - 3
    logits, cache = graphs.decoder(ids[:, :first], mask=mask[:, :first], embeds=embeds[:, :first])
    yield apart(logits, wanted[:, :first])
    yield apart(graphs.decoder(ids[:, first:], cache, mask, embeds[:, first:])[0], wanted[:, first:])


# ---- images of any size, positions along three axes


def measure_grids(source: Path, out: Path) -> Measured:
    """The same of a model that takes patches and their grid, as Qwen2-VL does."""
    from tests.onnx.test_qwen2_5_vl import Exported

    export(source, out, precision=PRECISIONS)
    bare = {name: out / f"bare-{name}" for name in SUFFIXES}
    for name, suffix in SUFFIXES.items():
        _alone(out, bare[name], suffix)
    found = max(grid_differences(Exported(source, bare["fp32"])))
    loaded = [name for name in SUFFIXES if _reads(Exported(source, bare[name]))]
    return Measured(found, tuple(loaded))


def _alone(folder: Path, target: Path, suffix: str) -> None:
    """The graphs of one precision under names without a suffix, their data beside them."""
    target.mkdir()
    for path in folder.iterdir():
        stem = path.name.removesuffix(f"{suffix}.onnx")
        if path.suffix == ".onnx" and stem != path.name and "_" + stem.rpartition("_")[2] not in SUFFIXES.values():
            (target / f"{stem}.onnx").hardlink_to(path)
        elif path.suffix != ".onnx" and path.is_file():
            (target / path.name).hardlink_to(path)


def grid_differences(graphs: Any) -> Iterator[float]:
    """The largest difference of image embeddings over grids of all kinds, and of logits with images and a past."""
    import torch

    from tests.onnx.test_qwen2_5_vl import GRIDS, pixels

    vision = graphs.config.vision_config
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    for grid in GRIDS.values():
        seen = pixels(grid, values)
        with torch.inference_mode():
            wanted = graphs.model.model.visual(*map(torch.from_numpy, seen.values())).pooler_output.numpy()
        yield apart(graphs.run("vision_encoder", **seen)[0], wanted)
    seen = pixels(GRIDS["two images"], values)
    counts = seen["image_grid_thw"].prod(1) // vision.spatial_merge_size**2
    images = [np.full((1, count), graphs.config.image_token_id) for count in counts]
    text = tokens_of(1, 12)
    ids = np.concatenate([text[:, :3], images[0], text[:, 3:5], images[1], text[:, 5:]], 1)
    for given, tokens in ((None, text), (seen, ids)):
        mask = np.ones_like(tokens)
        yield apart(graphs.logits(tokens, mask, given, steps=3), graphs.wanted(tokens, mask, given))


def _reads(graphs: Any) -> bool:
    ids = tokens_of(1, 6)
    embeds = graphs.embeds(ids)
    cache = TextGraph(graphs.folder / "decoder_model_merged.onnx").empty(1)
    places = np.broadcast_to(np.arange(6), (3, 1, 6))
    return bool(np.isfinite(graphs.decode(embeds, np.ones_like(ids), places, cache)[0]).all())
