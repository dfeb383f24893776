"""A model that takes images of one size, cut in three where transformers.js cuts it.

    decoder_model_merged    inputs_embeds, attention_mask, position_ids, cache -> logits, cache
    embed_tokens            input_ids -> inputs_embeds
    vision_encoder          pixel_values (, pixel_attention_mask) -> image_features, one row an image token

What is traced is transformers' own model: its forward without pixels, its embedding, and its `get_image_features`. The
rows of image_features take the places of the image tokens in inputs_embeds, in order. What of a tower
transformers' own code does not use (a layer behind the one whose output is taken, a pooling head) is in no graph.

Gemma 3's image tokens see each other in both directions. Its graph is told which they are by attention_mask, which is 2
there and else 1; a runtime that writes 1 for all, as transformers.js does, gets causal attention.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from convert.errors import InputError
from convert.formats.onnx.families import GraphCut, Input, TracedGraph
from convert.formats.onnx.families import _decoder as text
from convert.formats.onnx.hollow import hollow, layout_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel

IMAGES = 2  # of the example
MARKS = "token_type_ids"  # an input of models whose image tokens see each other: 1 for them
BLOCKS = "get_block_sequence_ids_for_mask"  # in a model's file: what it makes of them
TOWERS = ("vision_tower", "vision_model", "visual")  # what a model calls what looks at pixels


def parts(config: PretrainedConfig) -> list[TracedGraph]:
    """The three graphs, the decoder first."""
    from transformers import AutoModelForImageTextToText

    model = hollow(config, AutoModelForImageTextToText)
    return [decoder(model, config), embedding(model), _vision(model, config.vision_config)]


def decoder(model: PreTrainedModel, config: PretrainedConfig) -> TracedGraph:
    """The graph of the language model, whose tokens are embedded already."""
    batch, sequence = text.BATCH, text.SEQUENCE
    width = config.get_text_config().hidden_size
    tokens = {
        "inputs_embeds": Input(torch.zeros(batch, sequence, width), {0: "batch", 1: "sequence"}),
        **text.position_inputs(),
    }
    takes = inspect.signature(model.forward).parameters
    _check(model, takes)
    tokens = {name: one for name, one in tokens.items() if name in takes}
    layout = layout_of(model, text.first_step(tokens), "past_key_values")
    cache = text.cache_outputs(layout)
    return TracedGraph(
        "decoder_model_merged",
        (Marked if MARKS in takes else text.Decoder)(model, tuple(tokens), "past_key_values", layout),
        {**tokens, **text.cache_inputs(layout)},
        ("logits", *cache),
        {"logits": {0: "batch", 1: "sequence"}, **text.cache_axes(layout)},
        frozenset(one.output for one in layout.tensors if one.grows),
        {f"model.{name}": name for name, _ in model.named_parameters(remove_duplicate=False)},
    )


def _check(model: PreTrainedModel, takes: Collection[str]) -> None:
    """Raise InputError for a decoder that has to be told more than its tokens' embeddings and where images are."""
    kind, text_config = model.config.model_type, model.config.get_text_config()
    remedy = "save its language model alone as a checkpoint, and export that"
    if text_config.to_dict().get("hidden_size_per_layer_input", 0):
        got = f"the decoder of '{kind}' takes an input for each layer beside the embeddings: no graph is known for that"
        raise InputError("config.json", got, "a decoder of embeddings", remedy)
    if MARKS in takes and BLOCKS not in vars(sys.modules[type(model).__module__]):
        got = f"'{kind}' decides by {MARKS} which tokens see each other: no graph is known for that"
        raise InputError("config.json", got, "causal attention, or images whose tokens see each other", remedy)


class Marked(text.Decoder):
    """A decoder in which the tokens of an image see each other, those behind them too: attention_mask is 2 there."""

    def prepared(self, given: dict[str, Tensor], length: int) -> dict[str, Tensor]:
        return {**given, MARKS: (given["attention_mask"][:, -length:] > 1).long()}


class Embedding(torch.nn.Module):  # type: ignore[misc]  # torch is not followed by mypy here
    """Token ids -> rows of the embedding table."""

    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.embed_tokens = table

    def forward(self, input_ids: Tensor) -> tuple[Tensor]:
        return (self.embed_tokens(input_ids),)


def embedding(model: PreTrainedModel) -> TracedGraph:
    """The graph that looks tokens up."""
    table = model.get_input_embeddings()
    path = next(path for path, module in model.named_modules() if module is table)
    axes = {0: "batch", 1: "sequence"}
    return TracedGraph(
        "embed_tokens",
        Embedding(table),
        {"input_ids": Input(torch.zeros(text.BATCH, text.SEQUENCE, dtype=torch.long), axes)},
        ("inputs_embeds",),
        {"inputs_embeds": axes},
        parameters={f"embed_tokens.{name}": f"{path}.{name}" for name, _ in table.named_parameters()},
    )


class Vision(torch.nn.Module):  # type: ignore[misc]  # torch is not followed by mypy here
    """Pixels (image, channel, row, column) -> rows in the place of image tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor]:
        with _last_step(self.model) as seen:
            made = self.model.get_image_features(pixel_values=pixel_values).pooler_output
        return (_rows(seen.features if isinstance(made, _Images) else made),)


class _Images(list[object]):
    """What a model makes of the features of its images: a list, which a graph cannot hold."""


@dataclass
class _Seen:
    features: Tensor | None = None


@contextlib.contextmanager
def _last_step(model: nn.Module) -> Iterator[_Seen]:
    """What the projector gives, where a model's file makes a list of it: of tensors that list is ours and empty.

    LLaVA's code ends with `list(image_features)`, which would fix the number of images; nothing else is done with them.
    """
    seen = _Seen()
    names = vars(sys.modules[type(model).__module__])

    def listed(given: object = ()) -> list[object]:
        if seen.features is not None and given is seen.features:
            return _Images()
        return list(given)  # type: ignore[call-overload, no-any-return]

    def keep(_: nn.Module, __: object, output: Tensor) -> None:
        seen.features = output

    projectors = [module for path, module in model.named_modules() if path.endswith("multi_modal_projector")]
    hooks = [module.register_forward_hook(keep) for module in projectors]
    names["list"] = listed
    try:
        yield seen
    finally:
        del names["list"]
        for hook in hooks:
            hook.remove()


class TiledVision(torch.nn.Module):  # type: ignore[misc]  # torch is not followed by mypy here
    """Pixels (text, image, channel, row, column) and which of them are no padding -> rows in the place of image tokens.

    transformers' code leaves out images of zeros, a decision on values; here every image that is given is looked at.
    """

    def __init__(self, model: nn.Module, patch: int) -> None:
        super().__init__()
        self.model, self._patch = model, patch

    def forward(self, pixel_values: Tensor, pixel_attention_mask: Tensor) -> tuple[Tensor]:
        inner, patch = self.model.model, self._patch
        seen = pixel_attention_mask.flatten(0, 1).unflatten(1, (-1, patch)).unflatten(3, (-1, patch))
        seen = seen.to(torch.int32).sum((2, 4)) > 0
        made = inner.vision_model(pixel_values=pixel_values.flatten(0, 1), patch_attention_mask=seen)
        return (_rows(inner.connector(made.last_hidden_state)),)


def _rows(features: Tensor | Sequence[Tensor]) -> Tensor:
    whole = features if isinstance(features, torch.Tensor) else torch.cat(list(features), 0)
    return whole.reshape(-1, whole.shape[-1])


def _vision(model: PreTrainedModel, config: PretrainedConfig) -> TracedGraph:
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    channels = config.to_dict().get("num_channels", 3)
    names = {f"model.{name}": name for name, _ in model.named_parameters(remove_duplicate=False)}
    pixels = torch.zeros(IMAGES, channels, height, width)
    given, module = {"pixel_values": Input(pixels, {0: "images"})}, Vision(model)
    if "pixel_attention_mask" in inspect.signature(model.get_image_features).parameters:
        axes = {0: "batch", 1: "images"}
        tiles = pixels.expand(text.SEQUENCE, *pixels.shape).clone()
        mask = torch.ones(tiles.shape[:2] + tiles.shape[3:], dtype=torch.bool)
        given = {"pixel_values": Input(tiles, axes), "pixel_attention_mask": Input(mask, axes)}
        module = TiledVision(model, config.patch_size)
    return TracedGraph(
        "vision_encoder",
        module,
        given,
        ("image_features",),
        {"image_features": {0: "image_tokens"}},
        parameters=names,
        unused=tuple(
            f"{path}." for path, _ in model.named_modules() if path.rpartition(".")[2] in TOWERS and path.count(".") < 2
        ),
    )


CUT = GraphCut(parts)
