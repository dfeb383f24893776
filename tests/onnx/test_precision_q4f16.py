"""q4f16: 4-bit weights, float16 between them, and float32 where that has no room."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from convert.formats.onnx import int4, ranges
from convert.formats.onnx.blocks import Int4, rounded
from convert.formats.onnx.int4 import to_int4
from convert.formats.onnx.q4f16 import candidates, to_q4f16
from tests.fixtures_onnx_graphs import counts, decoder, inputs, run

TOKENS = [np.arange(2, 40)]


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Activations as they are: rounding them to int8 is of the same size as what is looked at here."""
    monkeypatch.setattr(int4, "ACCURACY", 1)


def typed(storage: str = "FLOAT", **shape: bool) -> ir.Model:
    """A decoder whose values have types, as traced ones have."""
    model = decoder(storage, **shape)
    proto = onnx.shape_inference.infer_shapes(ir.to_proto(model))
    kinds = {value.name: value.type.tensor_type.elem_type for value in proto.graph.value_info}
    for node in model.graph:
        for value in node.outputs:
            if value.dtype is None and value.name in kinds:
                value.type = ir.TensorType(ir.DataType(kinds[value.name]))
    return model


def narrow(model: ir.Model, beyond: frozenset[str] | None = frozenset()) -> ir.Model:
    to_q4f16(model, Int4(16), None, rounded, beyond)
    return model


def run_half(model: ir.Model, folder: Path) -> np.ndarray:
    """Logits, the empty cache being float16."""
    feeds = inputs(model)
    halves = {value.name for value in model.graph.inputs if value.dtype == ir.DataType.FLOAT16}
    return run(model, {n: v.astype(np.float16) if n in halves else v for n, v in feeds.items()}, folder)["logits"]


@pytest.mark.parametrize("storage", ["FLOAT", "BFLOAT16"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("beyond", [frozenset(), None])
def test_its_logits_are_those_of_int4(storage: str, tied: bool, beyond: frozenset[str] | None, tmp_path: Path) -> None:
    wide, half = typed(storage, tied=tied), narrow(typed(storage, tied=tied), beyond)
    to_int4(wide, Int4(16))
    wanted, got = run(wide, inputs(wide), tmp_path)["logits"], run_half(half, tmp_path)
    assert got.dtype == np.float32
    # where scales are float16's own already, what is left is arithmetic; else some weights go to the next level
    assert 0 < np.abs(got - wanted).max() < (0.15 if storage == "FLOAT" else 0.03)  # measured: 0.11, 0.02
    scales = [value.dtype for name, value in half.graph.initializers.items() if name.endswith("_scales")]
    assert set(scales) - {ir.DataType.FLOAT} == {ir.DataType.FLOAT16}


def test_all_but_norms_angles_and_masks_is_float16() -> None:
    """Casts stand at norms, at the angles' sines, at the mask, the embedding and the logits, and nowhere else."""
    model = narrow(typed())
    kept = {node.op_type for node in model.graph if any(value.dtype == ir.DataType.FLOAT for value in node.outputs)}
    assert not kept & {"MatMulNBits", "Softmax", "Sigmoid"}
    halves = [node for node in model.graph if node.outputs[0].dtype == ir.DataType.FLOAT16]
    assert {"MatMulNBits", "Softmax", "Add", "Mul", "Sigmoid"} <= {node.op_type for node in halves}
    assert not {node.op_type for node in halves} & {"ReduceMean", "Sqrt", "Cos", "Sin"}
    assert counts(model)["Cast"] < counts(narrow(typed(), None))["Cast"]


def test_what_passes_float16_is_found_and_stays_float32(tmp_path: Path) -> None:
    """A down projection that reads products of 1e5: found by running the graph, and the logits are finite."""

    def loud() -> ir.Model:
        model = typed()
        for name, value in model.graph.initializers.items():
            if "layers.1.mlp.up_proj" in name:
                value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1e5), name=name)
            if "layers.1.mlp.down_proj" in name:
                value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1e-5), name=name)
        return model

    (tmp_path / "ranges").mkdir()
    beyond = ranges.beyond(loud(), TOKENS, tmp_path / "ranges")
    assert {"l1.up", "l1.product"} <= beyond
    assert not {name for name in beyond if name.startswith("l0.")}
    wide = loud()
    to_int4(wide, Int4(16))
    wanted = run(wide, inputs(wide), tmp_path)["logits"]
    model = narrow(loud(), beyond)
    np.testing.assert_allclose(run_half(model, tmp_path), wanted, atol=0.15)
    layers = [node for node in model.graph if node.op_type == "MatMulNBits"]
    kept = [node.inputs[1].name for node in layers if node.inputs[2].dtype == ir.DataType.FLOAT]
    assert kept == [f"model.layers.1.mlp.{word}_proj.weight_Q4" for word in ("up", "down")]


def test_nothing_of_a_quiet_graph_is_beyond(tmp_path: Path) -> None:
    """Not the mask either: what is masked is far enough from 0 where float16 still has numbers."""
    assert ranges.beyond(typed(), TOKENS, tmp_path) == frozenset()
    assert len(candidates(typed())) > 30


def test_a_graph_without_tokens_is_not_run(tmp_path: Path) -> None:
    from tests.fixtures_onnx_graphs import graph

    text = """<ir_version: 10, opset_import: ["" : 20]>
    graph (float[n, 32] x) => (float[n, 8] y) { y = MatMul (x, w) }"""
    model = graph(text, [ir.tensor(np.ones((32, 8), np.float32), name="w")])
    assert ranges.beyond(model, TOKENS, tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_a_graph_that_computes_nothing_has_nothing_beyond(tmp_path: Path) -> None:
    """A table of embeddings takes tokens and has no operator in float16."""
    table = ir.Value(name="table", shape=ir.Shape([32, 8]), type=ir.TensorType(ir.DataType.FLOAT))
    table.const_value = ir.tensor(np.ones((32, 8), np.float32), name="table")
    tokens = ir.Value(name="input_ids", shape=ir.Shape(["batch", "sequence"]), type=ir.TensorType(ir.DataType.INT64))
    node = ir.node("Gather", [table, tokens])
    graph = ir.Graph([tokens], node.outputs, nodes=[node], initializers=[table], opset_imports={"": 20}, name="embed")
    node.outputs[0].name = "inputs_embeds"
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    assert ranges.beyond(ir.Model(graph, ir_version=10), TOKENS, tmp_path) == frozenset()
