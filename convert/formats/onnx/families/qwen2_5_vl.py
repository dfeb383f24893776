"""Qwen2.5-VL and Qwen2-VL: three graphs, so that text needs no vision tower; tokens and images meet in between.

    decoder_model_merged    inputs_embeds, attention_mask, position_ids (3, batch, sequence), cache -> logits, cache
    embed_tokens            input_ids -> inputs_embeds
    vision_encoder          pixel_values, image_grid_thw -> image_embeds, one row a merge unit, images in order

What is done between them (rows of image_embeds into inputs_embeds, positions along three axes) is plain numpy:
`helpers` names the module that is shipped beside the graphs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from convert.formats.onnx.families import GraphCut, Input, TracedGraph

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

AXES = 3  # of positions: time, height, width


def parts(config: PretrainedConfig) -> list[TracedGraph]:
    """The three graphs, the decoder first."""
    from transformers import AutoModelForImageTextToText

    from convert.formats.onnx.families.images import embedding
    from convert.formats.onnx.hollow import hollow

    model = hollow(config, AutoModelForImageTextToText)
    return [_decoder(model, config.get_text_config()), embedding(model), _vision(model, config.vision_config)]


def _decoder(model: PreTrainedModel, config: PretrainedConfig) -> TracedGraph:
    import torch

    from convert.formats.onnx.families import _decoder as text
    from convert.formats.onnx.families._qwen2_5_text import Decoder
    from convert.formats.onnx.hollow import layout_of

    beside = text.position_inputs()
    batch, sequence = beside["position_ids"].example.shape
    inputs = {
        "inputs_embeds": Input(torch.zeros(batch, sequence, config.hidden_size), {0: "batch", 1: "sequence"}),
        "attention_mask": beside["attention_mask"],
        "position_ids": Input(
            beside["position_ids"].example.expand(AXES, batch, sequence).clone(), {1: "batch", 2: "sequence"}
        ),
    }
    language_model = model.model.language_model
    layout = layout_of(language_model, text.first_step(inputs), "past_key_values")
    cache = text.cache_outputs(layout)
    return TracedGraph(
        "decoder_model_merged",
        Decoder(language_model, model.lm_head, layout),
        {**inputs, **text.cache_inputs(layout)},
        ("logits", *cache),
        {"logits": {0: "batch", 1: "sequence"}, **text.cache_axes(layout)},
        frozenset(cache),
        _names("language_model", language_model, "model.language_model") | _names("lm_head", model.lm_head, "lm_head"),
    )


def _vision(model: PreTrainedModel, config: PretrainedConfig) -> TracedGraph:
    import torch

    from convert.formats.onnx.families._qwen2_5_vision import VisionEncoder

    merge = config.spatial_merge_size
    grid = torch.tensor([[1, 5, 6], [1, 3, 4]]) * torch.tensor([1, merge, merge])  # two images that differ
    values = config.in_channels * config.temporal_patch_size * config.patch_size**2
    visual = model.model.visual
    return TracedGraph(
        "vision_encoder",
        VisionEncoder(visual, config),
        {
            "pixel_values": Input(torch.zeros(int(grid.prod(1).sum()), values), {0: "patches"}),
            "image_grid_thw": Input(grid, {0: "images"}),
        },
        ("image_embeds",),
        {"image_embeds": {0: "units"}},
        parameters=_names("visual", visual, "model.visual"),
    )


def _names(here: str, module: nn.Module, there: str) -> dict[str, str]:
    """Name in a part -> name in the whole model, of a module's parameters."""
    return {f"{here}.{name}": f"{there}.{name}" for name, _ in module.named_parameters(remove_duplicate=False)}


CUT = GraphCut(parts, helpers=("validate.runtimes._qwen2_5_vl_inputs",))
