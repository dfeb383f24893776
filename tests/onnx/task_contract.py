"""The contract of graphs that write no text by one stack: transformers' outputs at several shapes, and every precision.

Texts: 1 x 1, 3 x 9 with padding, 2 x 33 with padding, 1 x 64. Pairs of stacks: texts of 6 and of 3 x 11 with padding
read, and 9 tokens written in steps of 1, 4, 1 and 3, the first behind an empty cache. Images: one and three, in every
size that the graph takes. Towers: other numbers of texts than of images. Points: 1 x 1 x 1 and 2 x 3 x 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.onnx.contract import Measured
from tests.onnx.graphs import export, open_graph
from tests.onnx.task_checkpoints import VOCAB

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PRECISIONS = {"fp32": "", "fp16": "_fp16", "int8": "_int8", "int4": "_q4"}
Arrays = Mapping[str, np.ndarray]


def measure(source: Path, out: Path, precisions: tuple[str, ...] = tuple(PRECISIONS)) -> Measured:
    """Export a checkpoint in these precisions, and compare. Raises AssertionError for a NaN or another shape."""
    export(source, out, precision=precisions)
    suffixes = {name: PRECISIONS[name] if len(precisions) > 1 else "" for name in precisions}
    model = reference(source)
    apart = max(_checks(model)(model, Folder(out)))
    return Measured(apart, tuple(name for name in precisions if _answers(model, Folder(out, suffixes[name]))))


def reference(source: Path) -> PreTrainedModel:
    """transformers' own model in float32, of the class that the config names."""
    import json

    import torch
    import transformers

    kind = json.loads((source / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, kind).from_pretrained(source, dtype=torch.float32, attn_implementation="eager")
    assert not isinstance(model, tuple)
    return model.eval()  # type: ignore[no-any-return]


class Folder:
    """The graphs of one precision, opened when they are asked for."""

    def __init__(self, path: Path, suffix: str = "") -> None:
        self._path, self._suffix = path, suffix
        self._open: dict[str, Any] = {}

    def graph(self, name: str) -> Any:
        """The session of a graph."""
        if name not in self._open:
            self._open[name] = open_graph(self._path / f"{name}{self._suffix}.onnx")
        return self._open[name]

    def __call__(self, name: str, feeds: Arrays) -> dict[str, np.ndarray]:
        """A graph's outputs by name; what it does not take is not given to it."""
        session = self.graph(name)
        outputs = [output.name for output in session.get_outputs()]
        taken = {port.name: feeds[port.name] for port in session.get_inputs()}
        made = dict(zip(outputs, session.run(None, taken), strict=True))
        assert all(np.isfinite(values).all() for values in made.values())
        return made


def texts(batch: int, length: int, padded: int = 0, pad: int = 0) -> dict[str, np.ndarray]:
    """Ids, mask and kinds of tokens; the first row ends in padding."""
    ids = np.random.default_rng(length).integers(3, VOCAB, (batch, length))
    mask = np.ones_like(ids)
    if padded:
        mask[0, -padded:] = 0
        ids[0, -padded:] = pad
    kinds = np.broadcast_to(np.arange(length) % 2, ids.shape).copy()
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds}


def run(model: PreTrainedModel, feeds: Arrays, **others: Any) -> Any:
    """transformers' outputs."""
    import torch

    with torch.no_grad():
        return model(**{name: torch.tensor(values) for name, values in feeds.items()}, **others)


def apart(got: np.ndarray, wanted: np.ndarray, seen: np.ndarray | None = None) -> float:
    """The largest difference, of the largest value where that is above 1; only where `seen`."""
    assert got.shape == wanted.shape, (got.shape, wanted.shape)
    largest = np.abs(got - wanted)[... if seen is None else seen].max(initial=0)
    return float(largest / max(1.0, np.abs(wanted).max(initial=0)))


def of_texts(model: PreTrainedModel, graphs: Folder) -> Iterator[float]:
    """An encoder's graph."""
    pad = model.config.pad_token_id or 0
    for batch, length, padded in ((1, 1, 0), (3, 9, 4), (2, 33, 11), (1, 64, 0)):
        feeds = texts(batch, length, padded, pad)
        taken = {port.name: feeds[port.name] for port in graphs.graph("model").get_inputs()}
        wanted = run(model, taken)
        for name, values in graphs("model", taken).items():
            rows = values.shape[:2] == (batch, length)
            yield apart(values, wanted[name].numpy(), feeds["attention_mask"] == 1 if rows else None)


def of_pairs(model: PreTrainedModel, graphs: Folder) -> Iterator[float]:
    """An encoder's graph and a decoder's, step by step."""
    for batch, length, padded in ((1, 6, 0), (3, 11, 4)):
        read = texts(batch, length, padded, model.config.pad_token_id)
        if model.main_input_name == "input_features":
            frames = 2 * model.config.max_source_positions
            shape = (batch, model.config.num_mel_bins, frames)
            read = {"input_features": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
        read.pop("token_type_ids", None)
        hidden = graphs("encoder_model", read)["last_hidden_state"]
        written = np.random.default_rng(1).integers(3, VOCAB, (batch, 9))
        wanted = run(model, {**read, "decoder_input_ids": written}, use_cache=False)
        seen = read["attention_mask"] == 1 if "attention_mask" in read else None
        yield apart(hidden, wanted.encoder_last_hidden_state.numpy(), seen)
        given = {"encoder_hidden_states": hidden}
        if "attention_mask" in read:
            given["encoder_attention_mask"] = read["attention_mask"]
        yield from _steps(graphs, given, written, wanted.logits.numpy())


def _steps(graphs: Folder, given: Arrays, written: np.ndarray, wanted: np.ndarray) -> Iterator[float]:
    name, at = "decoder_model_merged", 0
    past = empty(graphs.graph(name), len(written))
    for step in (1, 4, 1, 3):
        tokens = written[:, at : at + step]
        made = graphs(name, {"input_ids": tokens, **given, **past})
        yield apart(made.pop("logits"), wanted[:, at : at + step])
        past, at = {key.replace("present", "past_key_values"): values for key, values in made.items()}, at + step
        assert past["past_key_values.0.decoder.key"].shape[2] == at
        assert past["past_key_values.0.encoder.key"].shape[2] == given["encoder_hidden_states"].shape[1]


def empty(session: Any, batch: int) -> dict[str, np.ndarray]:
    """A cache of no tokens."""
    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    ports = [port for port in session.get_inputs() if port.name.startswith("past_key_values.")]
    return {port.name: np.zeros((batch, port.shape[1], 0, port.shape[3]), types[port.type]) for port in ports}


def images(session: Any, batch: int, height: int, width: int) -> dict[str, np.ndarray]:
    """Random pixels where a graph says no size, and a mask that hides some of them."""
    shape = (batch, 3, height, width)
    feeds = {"pixel_values": np.random.default_rng(height + batch).normal(size=shape).astype(np.float32)}
    if "pixel_mask" in {port.name for port in session.get_inputs()}:
        mask = np.ones((batch, height, width), np.int64)
        mask[0, height - height // 4 :] = 0
        feeds["pixel_mask"] = mask
    return feeds


def of_images(model: PreTrainedModel, graphs: Folder) -> Iterator[float]:
    """A graph of images."""
    session = graphs.graph("model")
    height, width = session.get_inputs()[0].shape[2:]
    free = isinstance(height, str)
    for size in ((64, 96), (128, 64)) if free else ((height, width),):
        for batch in (1, 3):
            feeds = images(session, batch, *size)
            wanted = run(model, feeds)
            for name, values in graphs("model", feeds).items():
                yield apart(values, wanted[name].numpy())


def of_towers(model: PreTrainedModel, graphs: Folder) -> Iterator[float]:
    """Both towers together, and each alone."""
    import torch

    fixed = model.config.model_type == "siglip"
    for count, pictures, length in ((2, 1, 32 if fixed else 7), (3, 2, 32)):
        words = texts(count, length, 0 if fixed or length < 32 else 12)
        words["input_ids"][:, min(17, length - 1)] = 2  # the end of a text, by which CLIP pools
        pixels = np.random.default_rng(1).normal(size=(pictures, 3, 32, 32)).astype(np.float32)
        feeds = {"input_ids": words["input_ids"], "pixel_values": pixels}
        feeds |= {} if fixed else {"attention_mask": words["attention_mask"]}
        wanted = run(model, feeds)
        for name, values in graphs("model", feeds).items():
            yield apart(values, wanted[name].numpy())
        with torch.no_grad():
            given = {name: torch.tensor(values) for name, values in feeds.items() if name != "pixel_values"}
            text, image = model.get_text_features(**given), model.get_image_features(torch.tensor(pixels))
        for part, alone in (("text_model", text), ("vision_model", image)):
            (values,) = graphs(part, feeds).values()
            yield apart(values, alone.pooler_output.numpy())


def of_points(model: PreTrainedModel, graphs: Folder) -> Iterator[float]:
    """An image's graph and that of what is asked of it."""
    size = model.config.vision_config.image_size
    for batch, prompts, points in ((1, 1, 1), (2, 3, 2)):
        draw = np.random.default_rng(points)
        pixels = draw.normal(size=(batch, 3, size, size)).astype(np.float32)
        asked = {
            "input_points": draw.uniform(0, size, (batch, prompts, points, 2)).astype(np.float32),
            "input_labels": draw.integers(-1, 2, (batch, prompts, points)),
        }
        read = graphs("vision_encoder", {"pixel_values": pixels})
        wanted = run(model, {"pixel_values": pixels, **asked})
        for name, values in graphs("prompt_encoder_mask_decoder", {**asked, **read}).items():
            yield apart(values, wanted[name].numpy())


Check = Callable[["PreTrainedModel", Folder], Iterator[float]]


def _checks(model: PreTrainedModel) -> Check:
    """What is asked of graphs of this class."""
    kind = type(model).__name__
    if kind == "SamModel":
        return of_points
    if kind in ("CLIPModel", "SiglipModel"):
        return of_towers
    if model.main_input_name == "pixel_values":
        return of_images
    return of_pairs if model.config.is_encoder_decoder else of_texts


def _answers(model: PreTrainedModel, graphs: Folder) -> bool:
    """Whether graphs of a precision load, and what they first give is finite and not far from the source's."""
    return all(found < 1.0 for found in islice(_checks(model)(model, graphs), 2))
