"""An encoder of text, with the head of its class or without one: one graph `model`.

input_ids, attention_mask[, token_type_ids] -> last_hidden_state[, sentence_embedding], or the head's outputs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from convert.formats.onnx.families import Input, TracedGraph
from convert.formats.onnx.families._forward import Forward, parameter_names, takes
from convert.formats.onnx.families._pooling import OUTPUT, Embedder, Pooled

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from convert.formats.onnx.tasks import Task

BATCH, SEQUENCE = 2, 5  # none is 0 or 1, which tracing takes for constants
AXES: Mapping[int, str] = {0: "batch", 1: "sequence"}
PER_TEXT = ("AutoModelForSequenceClassification",)  # whose outputs are one row a text


def parts(config: PretrainedConfig, task: Task, embedder: Embedder | None) -> list[TracedGraph]:
    """The one graph."""
    model = task.model(config)
    drop_pooler(model, task)
    inputs = text_inputs(model, config)
    axes = {0: "batch"} if task.auto in PER_TEXT else AXES
    graph = TracedGraph(
        "model",
        Forward(model, list(inputs), task.outputs),
        inputs,
        task.outputs,
        dict.fromkeys(task.outputs, axes),
        parameters=parameter_names("model", model),
    )
    return [graph if embedder is None else _with_embedding(graph, embedder)]


def _with_embedding(graph: TracedGraph, embedder: Embedder) -> TracedGraph:
    """The graph with one more output, the vector of each text."""
    return replace(
        graph,
        module=Pooled(graph.module, list(graph.inputs).index("attention_mask"), embedder),
        outputs=(*graph.outputs, OUTPUT),
        output_axes={**graph.output_axes, OUTPUT: {0: "batch"}},
        parameters={f"inner.{here}": there for here, there in graph.parameters.items()},
    )


def text_inputs(model: PreTrainedModel, config: PretrainedConfig) -> dict[str, Input]:
    """Token ids and their mask, and the kind of each token where the model tells two kinds apart."""
    names: Sequence[str] = ("input_ids", "attention_mask")
    if takes(model, "token_type_ids") and config.to_dict().get("type_vocab_size", 0) > 1:
        names = (*names, "token_type_ids")
    examples = {"attention_mask": torch.ones}
    return {name: Input(examples.get(name, torch.zeros)(BATCH, SEQUENCE, dtype=torch.long), AXES) for name in names}


def drop_pooler(model: PreTrainedModel, task: Task) -> None:
    """Take away what makes an output of the first token that the graph does not give."""
    if "pooler_output" not in task.outputs and model._modules.get("pooler") is not None:
        model.pooler = None
