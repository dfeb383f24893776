"""A model of images with the head of its class or without one: one graph `model`, pixel_values to what it gives.

Height and width are free where the model reads images of any size, else those of its config.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from convert.formats.onnx.families import Input, TracedGraph
from convert.formats.onnx.families._forward import Forward, parameter_names, takes

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from convert.formats.onnx.families._pooling import Embedder
    from convert.formats.onnx.tasks import Task

BATCH, CHANNELS = 2, 3
FREE = frozenset({"resnet", "convnext", "convnextv2", "regnet", "segformer", "mobilenet_v2", "mobilenet_v1", "detr"})
"""Model types that read images of any size; positions of others are made for one."""
SIZE = 224  # pixels, where a config says nothing
MASKED = frozenset({"detr", "conditional_detr", "deformable_detr", "table-transformer"})
"""Those of images of different sizes together, padded: a mask says where there is an image."""


def parts(config: PretrainedConfig, task: Task, embedder: Embedder | None) -> list[TracedGraph]:
    """The one graph."""
    del embedder  # of texts
    model = task.model(config)
    inputs = image_inputs(model, config)
    outputs = given_outputs(model, config, task)
    return [
        TracedGraph(
            "model",
            Forward(model, list(inputs), outputs),
            inputs,
            outputs,
            {name: {0: "batch"} for name in outputs},
            parameters=parameter_names("model", model),
        )
    ]


def image_inputs(model: PreTrainedModel, config: PretrainedConfig) -> dict[str, Input]:
    """pixel_values, and pixel_mask of a model that reads images of different sizes together."""
    height, width = image_size(config)
    axes = {0: "batch"}
    if config.model_type in FREE:
        height, width, axes = 64, 96, {0: "batch", 2: "height", 3: "width"}
    channels = config.to_dict().get("num_channels", CHANNELS)
    inputs = {"pixel_values": Input(torch.zeros(BATCH, channels, height, width), axes)}
    if config.model_type in MASKED and takes(model, "pixel_mask"):
        mask = torch.ones(BATCH, height, width, dtype=torch.long)
        inputs["pixel_mask"] = Input(mask, {0: "batch"} | ({1: "height", 2: "width"} if len(axes) > 1 else {}))
    return inputs


def image_size(config: PretrainedConfig) -> tuple[int, int]:
    """Height and width of the images that a config is made for."""
    said = config.to_dict()
    size = said.get("image_size") or said.get("anchor_image_size") or said.get("eval_size") or SIZE
    pair: Sequence[int] = (size, size) if isinstance(size, int) else tuple(size)
    return pair[0], pair[1]


def given_outputs(model: PreTrainedModel, config: PretrainedConfig, task: Task) -> tuple[str, ...]:
    """Those of the task's outputs that this model gives; without a pooler there is none of the whole image."""
    del config
    pooled = "pooler_output" in task.outputs and not _has_pooler(model)
    return tuple(name for name in task.outputs if not (pooled and name == "pooler_output"))


def _has_pooler(model: PreTrainedModel) -> bool:
    """Whether an output of the whole image is made: by a pooler that may be left out, or always."""
    if "pooler" in model._modules:
        return model._modules["pooler"] is not None
    return model.config.model_type in POOLED


POOLED = frozenset({"dinov2", "dinov2_with_registers", "dinov3_vit", "dinov3_convnext", "convnext", "convnextv2"})
"""Models without a module of that name that give pooler_output."""
