"""Which runtimes accept a graph: by operator, by domain, by opset."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from convert.formats.onnx.portability import facts, verdicts
from convert.formats.onnx.portability_tables import RUNTIMES


def graph(*operators: str, opset: int = 20) -> onnx.ModelProto:
    """A chain of operators, `domain::Name` or `Name`."""
    nodes = []
    for i, word in enumerate(operators):
        domain, _, name = word.rpartition("::")
        nodes.append(helper.make_node(name, [f"x{i}"], [f"x{i + 1}"], name=f"node_{i}", domain=domain))
    ends = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [2]) for i in (0, len(operators))]
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]), opset_imports=opsets)


def lacking(model: onnx.ModelProto) -> dict[str, str]:
    return {each.runtime.name: str(each) for each in verdicts(model) if not each.accepts}


def test_plain_operators_run_everywhere() -> None:
    assert lacking(graph("MatMul", "Add", "Softmax", "Transpose", "Where")) == {}


def test_what_lacks_is_named_with_its_node_and_runtime() -> None:
    found = lacking(graph("MatMul", "DynamicQuantizeLinear", "MatMulInteger", "MatMulInteger"))
    words = "MatMulInteger (2 nodes, the first node_2), DynamicQuantizeLinear (1 nodes, the first node_1)"
    assert found == dict.fromkeys(("TensorRT", "QNN", "ONNX Runtime Web WebGPU"), f"lacks {words}")


def test_operators_of_onnx_runtime_are_for_those_that_have_them() -> None:
    found = lacking(graph("com.microsoft::MatMulNBits", "com.microsoft::GroupQueryAttention"))
    assert set(found) == {"TensorRT", "QNN"}
    assert found["QNN"] == "lacks com.microsoft::GroupQueryAttention (1 nodes, the first node_1)"
    assert "com.microsoft::MatMulNBits (1 nodes, the first node_0)" in found["TensorRT"]


def test_an_operator_nobody_knows_runs_nowhere() -> None:
    assert set(lacking(graph("some.where::Thing"))) == {runtime.name for runtime in RUNTIMES}


def test_an_opset_beyond_a_table_is_said() -> None:
    assert lacking(graph("MatMul", opset=23)) == {"TensorRT": "lacks opset 23 (it takes 9 to 20)"}


def test_operators_inside_of_branches_count() -> None:
    inner = graph("Unique").graph
    model = graph("MatMul")
    model.graph.node.append(helper.make_node("If", ["x0"], ["y"], then_branch=inner, else_branch=inner))
    assert "Unique (2 nodes" in lacking(model)["TensorRT"]


def test_many_that_lack_are_counted() -> None:
    names = ["Unique", "STFT", "DFT", "Det", "Col2Im", "Optional"]
    assert lacking(graph(*names))["TensorRT"].endswith("and 2 more")


def test_every_line_has_a_source_and_tables_know_operators_that_onnx_has() -> None:
    said = facts(graph("MatMul"))
    assert all(said[f"on {runtime.name}"] == "accepts it" for runtime in RUNTIMES)
    assert "onnx-tensorrt" in str(said["these by"])
    known = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    for runtime in RUNTIMES:
        assert (runtime.standard | runtime.lacks) - known <= {"SimplifiedLayerNormalization"}


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.name)
def test_a_table_says_what_a_runtime_has_or_what_it_lacks(runtime: object) -> None:
    assert bool(vars(runtime)["standard"]) != bool(vars(runtime)["lacks"])
