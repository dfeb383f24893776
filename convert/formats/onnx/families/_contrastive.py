"""Two towers, of texts and of images, that meet in one space: three graphs, as transformers.js asks for them.

model           input_ids, pixel_values[, attention_mask] -> logits_per_image, logits_per_text, both embeddings
text_model      input_ids[, attention_mask] -> text_embeds, or pooler_output of SigLIP
vision_model    pixel_values -> image_embeds, or pooler_output of SigLIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from convert.formats.onnx.families import Input, TracedGraph
from convert.formats.onnx.families._forward import Forward, parameter_names
from convert.formats.onnx.families._vision import CHANNELS, image_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel

    from convert.formats.onnx.families._pooling import Embedder
    from convert.formats.onnx.tasks import Task

TEXTS, IMAGES, SEQUENCE = 3, 2, 5
TEXT_AXES, IMAGE_AXES = {0: "texts", 1: "sequence"}, {0: "images"}
OUTPUTS = ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds")
UNMASKED = frozenset({"siglip"})  # texts padded to one length, which nothing masks
OWN_WORD = frozenset({"siglip", "siglip2"})  # whose towers alone give what they call pooler_output


def parts(config: PretrainedConfig, task: Task, embedder: Embedder | None) -> list[TracedGraph]:
    """The whole first: what compares texts with images."""
    del embedder  # of texts
    model = task.model(config)
    texts, images = _text_inputs(config), _image_inputs(config)
    mask = {name: texts[name] for name in texts if name != "input_ids"}
    inputs = {"input_ids": texts["input_ids"], **images, **mask}
    names = parameter_names("model", model)
    axes = {
        "logits_per_image": {0: "images", 1: "texts"},
        "logits_per_text": {0: "texts", 1: "images"},
        "text_embeds": {0: "texts"},
        "image_embeds": {0: "images"},
    }
    whole = TracedGraph("model", Forward(model, list(inputs), OUTPUTS), inputs, OUTPUTS, axes, parameters=names)
    words = ("pooler_output", "pooler_output") if config.model_type in OWN_WORD else ("text_embeds", "image_embeds")
    text = _tower("text_model", Tower(model, model.get_text_features, list(texts)), texts, words[0])
    image = _tower("vision_model", Tower(model, model.get_image_features, list(images)), images, words[1])
    return [whole, text, image]


def _tower(name: str, module: Tower, inputs: dict[str, Input], output: str) -> TracedGraph:
    axes = next(iter(inputs.values())).axes[0]
    names = parameter_names("model", module.model)
    return TracedGraph(name, module, inputs, (output,), {output: {0: axes}}, parameters=names)


def _text_inputs(config: PretrainedConfig) -> dict[str, Input]:
    ids = torch.zeros(TEXTS, SEQUENCE, dtype=torch.long)
    inputs = {"input_ids": Input(ids, TEXT_AXES)}
    if config.model_type not in UNMASKED:
        inputs["attention_mask"] = Input(torch.ones_like(ids), TEXT_AXES)
    return inputs


def _image_inputs(config: PretrainedConfig) -> dict[str, Input]:
    height, width = image_size(config.vision_config)
    channels = config.vision_config.to_dict().get("num_channels", CHANNELS)
    return {"pixel_values": Input(torch.zeros(IMAGES, channels, height, width), IMAGE_AXES)}


class Tower(torch.nn.Module):  # type: ignore[misc]  # torch is not followed by mypy here
    """One tower, through its projection."""

    def __init__(self, model: PreTrainedModel, features: nn.Module, inputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self.features, self.inputs = model, features, tuple(inputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor]:
        made = self.features(**dict(zip(self.inputs, tensors, strict=True)))
        return (made if isinstance(made, torch.Tensor) else made.pooler_output,)
