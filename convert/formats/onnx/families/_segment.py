"""Segment Anything: two graphs, so that an image is read once for all points that are asked of it.

vision_encoder              pixel_values -> image_embeddings, image_positional_embeddings
prompt_encoder_mask_decoder input_points, input_labels, image_embeddings, image_positional_embeddings
                            -> iou_scores, pred_masks
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from convert.formats.onnx.families import Input, TracedGraph
from convert.formats.onnx.families._forward import parameter_names
from convert.formats.onnx.families._vision import CHANNELS, image_size

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig

    from convert.formats.onnx.families._pooling import Embedder
    from convert.formats.onnx.tasks import Task

BATCH, PROMPTS, POINTS = 2, 3, 4
READ = ("image_embeddings", "image_positional_embeddings")
FOUND = ("iou_scores", "pred_masks")
BATCHES: Mapping[str, Mapping[int, str]] = {name: {0: "batch"} for name in READ}
PROMPTED: Mapping[int, str] = {0: "batch", 1: "point_batch"}


def parts(config: PretrainedConfig, task: Task, embedder: Embedder | None) -> list[TracedGraph]:
    """Both graphs, the one with the masks first."""
    del embedder  # of texts
    model = task.model(config)
    names = parameter_names("model", model)
    size = config.prompt_encoder_config.image_embedding_size
    read = (BATCH, config.prompt_encoder_config.hidden_size, size, size)
    points = {0: "batch", 1: "point_batch", 2: "points"}
    prompts = {
        "input_points": Input(torch.zeros(BATCH, PROMPTS, POINTS, 2), points),
        "input_labels": Input(torch.ones(BATCH, PROMPTS, POINTS, dtype=torch.long), points),
        **{name: Input(torch.zeros(read), {0: "batch"}) for name in READ},  # one each: a tensor is taken for one input
    }
    height, width = image_size(config.vision_config)
    channels = config.vision_config.to_dict().get("num_channels", CHANNELS)
    image = {"pixel_values": Input(torch.zeros(BATCH, channels, height, width), {0: "batch"})}
    return [
        TracedGraph(
            "prompt_encoder_mask_decoder",
            Masks(model),
            prompts,
            FOUND,
            dict.fromkeys(FOUND, PROMPTED),
            parameters=names,
        ),
        TracedGraph("vision_encoder", Images(model), image, READ, BATCHES, parameters=names),
    ]


class Images(torch.nn.Module):  # type: ignore[misc]  # torch is not followed by mypy here
    """What the decoder needs of an image, and where each of it lies."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        places = self.model.get_image_wide_positional_embeddings()
        return self.model.get_image_embeddings(pixel_values), places.repeat(pixel_values.shape[0], 1, 1, 1)


class Masks(torch.nn.Module):  # type: ignore[misc]  # torch is not followed by mypy here
    """Points and their labels -> three masks of each prompt, and how sure it is of them.

    Prompts are decoded as images of their own: onnxscript repeats the wrong axis where their number is free.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_points: Tensor, input_labels: Tensor, image_embeddings: Tensor, places: Tensor
    ) -> tuple[Tensor, Tensor]:
        sparse, dense = self.model.prompt_encoder(
            input_points=input_points, input_labels=input_labels, input_boxes=None, input_masks=None
        )
        batch, prompts = input_points.shape[:2]

        def each(tensor: Tensor) -> Tensor:
            """What is of an image, once for each of its prompts."""
            return tensor[:, None].expand(-1, prompts, -1, -1, -1).flatten(0, 1)

        masks, scores = self.model.mask_decoder(
            image_embeddings=each(image_embeddings),
            image_positional_embeddings=each(places),
            sparse_prompt_embeddings=sparse.flatten(0, 1).unsqueeze(1),
            dense_prompt_embeddings=each(dense),
            multimask_output=True,
        )
        return scores[:, 0].unflatten(0, (batch, prompts)), masks[:, 0].unflatten(0, (batch, prompts))
