"""A mixture of experts as a graph: the numbers of transformers' own loop for any routing, in every precision.

The graph is that of one layer's experts alone, so that it costs little to trace.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from convert.formats.onnx import experts, half, int4, int8, trace
from convert.formats.onnx.families import Input, TracedGraph
from tests.onnx.graphs import open_graph

COUNT, CHOSEN, WIDTH = 8, 2, 64
LIMITS = {"fp32": 1e-5, "fp16": 2e-2, "int8": 0.3, "int4": 1.0}  # random weights: the outputs are up to 6


class Layer(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = Qwen3MoeConfig(
            hidden_size=WIDTH, moe_intermediate_size=48, num_experts=COUNT, num_experts_per_tok=CHOSEN
        )
        self.experts = Qwen3MoeExperts(config)
        for parameter in self.experts.parameters():
            torch.nn.init.normal_(parameter.requires_grad_(False), std=0.2)

    def forward(self, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.experts(hidden, index, weights),)

    def run_by(self, name: str) -> None:
        self.experts.config._experts_implementation = name


@pytest.fixture(scope="module")
def layer() -> Layer:
    return Layer()


@pytest.fixture(scope="module")
def graph(layer: Layer) -> ir.Model:
    layer.run_by(experts.EXPERTS)
    hidden, index, weights = (torch.from_numpy(array) for array in routing(5, 0))
    inputs = {"hidden": Input(hidden, {0: "n"}), "index": Input(index, {0: "n"}), "weights": Input(weights, {0: "n"})}
    names = {f"experts.{name}": f"experts.{name}" for name, _ in layer.experts.named_parameters()}
    return trace.trace(TracedGraph("model", layer, inputs, ("y",), parameters=names))


def routing(tokens: int, seed: int, used: int = COUNT) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, and the experts of each among the first `used`."""
    draw = np.random.default_rng(seed)
    index = np.stack([draw.permutation(used)[:CHOSEN] for _ in range(tokens)])
    return draw.standard_normal((tokens, WIDTH), np.float32), index, draw.random((tokens, CHOSEN), np.float32)


def in_precision(graph: ir.Model, layer: Layer, precision: str, path: Path) -> Path:
    model = graph.clone()
    stacks = dict(layer.named_parameters())
    for name, value in trace.weights(model).items():
        stack, _, number = name.rpartition(".")
        value.const_value = ir.tensor(stacks[stack][int(number)].numpy(), name=name)
    if precision == "int8":
        int8.to_int8(model)
    elif precision == "int4":
        int4.to_int4(model)
    elif precision == "fp16":
        half.to_half(model, ir.DataType.FLOAT16)
    for value in model.graph.initializers.values():
        tensor = value.const_value
        assert tensor is not None
        value.const_value = ir.tensor(tensor.numpy(), dtype=tensor.dtype, name=value.name)
    ir.save(model, path)
    return path


@pytest.mark.parametrize("precision", LIMITS)
def test_the_numbers_are_those_of_transformers(graph: ir.Model, layer: Layer, precision: str, tmp_path: Path) -> None:
    """One token leaves six experts without any; ten on two experts leave the same six, in a prompt."""
    session = open_graph(in_precision(graph, layer, precision, tmp_path / "model.onnx"))
    layer.run_by("eager")
    for tokens, used in ((1, COUNT), (2, COUNT), (40, COUNT), (10, CHOSEN)):
        given = routing(tokens, tokens, used)
        (wanted,) = layer(*map(torch.from_numpy, given))
        (got,) = session.run(None, dict(zip(("hidden", "index", "weights"), given, strict=True)))
        assert np.abs(got - wanted.numpy()).max() < LIMITS[precision]


def test_every_expert_has_matrices_of_its_own(graph: ir.Model) -> None:
    names = {experts.expert_name(f"experts.{name}", n) for name in ("gate_up_proj", "down_proj") for n in range(COUNT)}
    assert set(trace.weights(graph)) == names
    assert {node.domain for node in graph.graph.all_nodes()} == {""}
    assert [node.op_type for node in graph.graph if node.op_type in {"Loop", "Scan", "If", "NonZero"}] == []
