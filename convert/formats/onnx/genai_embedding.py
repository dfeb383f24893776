"""The graph between tokens, images and the decoder: each image token's row is the next of the image's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from convert.formats.onnx.families import Input, TracedGraph
from convert.formats.onnx.genai_config import FEATURES

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig

ROWS = 4  # of the example: no other axis has as many


def with_images(embedder: TracedGraph, config: PretrainedConfig) -> TracedGraph:
    """The graph of a table of embeddings, with `image_features` (row, hidden) as a second input."""
    width = config.get_text_config().hidden_size
    features = Input(torch.zeros(ROWS, width), {0: "image_rows"})
    return replace(
        embedder,
        module=_Embedding(embedder.module, config.image_token_id, width),
        inputs={**embedder.inputs, FEATURES: features},
        parameters={f"table.{inner}": name for inner, name in embedder.parameters.items()},
    )


class _Embedding(torch.nn.Module):  # type: ignore[misc] # torch is not typed here
    def __init__(self, table: nn.Module, image: int, width: int) -> None:
        super().__init__()
        self.table, self._image = table, image
        self.register_buffer("nothing", torch.zeros(1, width), persistent=False)

    def forward(self, input_ids: Tensor, image_features: Tensor) -> tuple[Tensor]:
        (rows,) = self.table(input_ids)
        is_image = input_ids == self._image
        place = (is_image.reshape(-1).long().cumsum(0) - 1).clamp(min=0)
        seen = torch.cat([image_features, self.nothing]).index_select(0, place)  # while text is written there are none
        return (torch.where(is_image.unsqueeze(-1), seen.reshape(rows.shape), rows),)
