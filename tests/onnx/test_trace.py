"""Tracing: names, axes and operators of the graph, and what it must not hold."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from convert.errors import StageError
from convert.formats.onnx import trace
from convert.formats.onnx.families import Input, TracedGraph
from tests.onnx.graphs import traced


def test_names_and_axes_are_those_that_readers_of_optimums_files_know() -> None:
    _, model = traced()
    inputs = {v.name: (str(v.dtype), [str(size) for size in v.shape]) for v in model.graph.inputs}
    assert inputs == {
        "input_ids": ("INT64", ["batch", "sequence"]),
        "attention_mask": ("INT64", ["batch", "total"]),
        "position_ids": ("INT64", ["batch", "sequence"]),
        **{
            f"past_key_values.{layer}.{what}": ("FLOAT", ["batch", "2", "past", "16"])
            for layer in range(2)
            for what in ("key", "value")
        },
    }
    outputs = {v.name: (str(v.dtype), [str(size) for size in v.shape]) for v in model.graph.outputs}
    assert outputs == {
        "logits": ("FLOAT", ["batch", "sequence", "512"]),
        **{
            f"present.{layer}.{what}": ("FLOAT", ["batch", "2", "total", "16"])
            for layer in range(2)
            for what in ("key", "value")
        },
    }


def test_weights_have_the_models_names_and_no_values() -> None:
    _, model = traced()
    weights = trace.weights(model)
    assert "model.layers.1.mlp.down_proj.weight" in weights
    assert trace.sizes(weights["model.layers.1.mlp.down_proj.weight"]) == (64, 128)
    assert trace.count(model) == sum(
        (512 * 64 * 2, 64, 2 * (2 * 64 + 64 * 64 + 64 + 2 * (32 * 64 + 32) + 64 * 64 + 3 * 64 * 128))
    )
    others = [v for v in model.graph.initializers.values() if v.const_value is not None]
    assert max(v.const_value.size for v in others) <= 16  # nothing that was folded from weights


def test_a_layer_computes_no_shapes_and_repeats_no_keys() -> None:
    _, model = traced()
    count = Counter(node.op_type for node in model.graph)
    assert count["Shape"] == 2  # the lengths of the text and the cache, for the mask: once a graph
    assert count["Expand"] == count["GatherND"] == count["IsNaN"] == count["Where"] - 1 == 0
    assert count["Softmax"] == 2  # one a layer
    assert model.opset_imports == {"": 20}
    assert {node.domain for node in model.graph} == {""}


def test_a_node_says_which_module_it_comes_from_and_nothing_of_this_machine() -> None:
    _, model = traced()
    (up,) = [n for v in [trace.weights(model)["model.layers.0.mlp.up_proj.weight"]] for n in v.consumers()]
    assert up.metadata_props == {trace.SOURCE: "model.layers.0.mlp.up_proj (Linear)"}
    text = str([dict(node.metadata_props) for node in model.graph]) + str(dict(model.metadata_props))
    assert "torch" not in text
    assert "/" not in text


class Deciding(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (x * 2,) if x.sum() > 0 else (x,)


class Normalizing(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()).expand(4), requires_grad=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return ((x * self.weight).reshape(x.shape[0], 2, -1),)


def part(module: torch.nn.Module, **parameters: str) -> TracedGraph:
    return TracedGraph("model", module, {"x": Input(torch.ones(3, 4), {0: "rows"})}, ("y",), parameters=parameters)


def test_a_decision_that_depends_on_values_is_refused() -> None:
    with pytest.raises(StageError, match=r"torch cannot trace model .*wanted a model without decisions"):
        trace.trace(part(Deciding()))


def test_small_weights_are_not_folded_and_shapes_are_constants() -> None:
    model = trace.trace(part(Normalizing(), weight="norm.weight"))
    assert [node.op_type for node in model.graph] == ["Mul", "Reshape"]
    assert list(trace.weights(model)) == ["norm.weight"]
    assert model.graph.node(1).inputs[1].const_value.numpy().tolist() in ([0, 2, 2], [-1, 2, 2])


def test_operators_of_other_domains_are_refused() -> None:
    model = trace.trace(part(Normalizing(), weight="norm.weight"))
    model.graph.node(0).domain = "com.microsoft"
    with pytest.raises(StageError, match=r"the graph has com.microsoft::Mul, wanted standard operators only"):
        trace.check_domains(model)
    trace.check_domains(model, frozenset({"com.microsoft"}))


def test_a_node_outside_of_every_module_has_no_source() -> None:
    """torch puts the name of a hook of its own there."""
    hook = "_empty_nn_module_stack_from_metadata_hook"
    named = {
        "pkg.torch.onnx.name_scopes": f"['', '{hook}', 'x']",
        "pkg.torch.onnx.class_hierarchy": f"['', '{hook}', 'x']",
    }
    assert trace._source(named, "") == ""
    real = {
        "pkg.torch.onnx.name_scopes": "['part', 'part.model.layers.0.mlp', 'x']",
        "pkg.torch.onnx.class_hierarchy": "['m.TracedGraph', 'm.MLP', 'x']",
    }
    assert trace._source(real, "") == "model.layers.0.mlp (MLP)"
