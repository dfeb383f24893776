"""Qwen2.5-VL's language model as functions of their inputs alone: transformers' own modules, called as traced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from convert.formats.onnx.past import Layout


class Decoder(torch.nn.Module):  # type: ignore[misc] # torch is not typed here
    """Embeddings, mask, positions along three axes and the cache -> logits and the longer cache."""

    def __init__(self, language_model: nn.Module, lm_head: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.language_model, self.lm_head = language_model, lm_head
        self._layout = layout

    def forward(
        self, inputs_embeds: Tensor, attention_mask: Tensor, position_ids: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        cache = self._layout.past(tensors)
        hidden = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return self.lm_head(hidden), *self._layout.present(cache)
