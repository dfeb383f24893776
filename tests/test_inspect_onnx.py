"""`convert inspect` of a graph, of what calls itself one, and of an engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from convert.errors import InputError
from convert.inspection.file import inspect_file


def test_a_graph_shows_its_inputs_outputs_operators_and_files(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT16, dims=[2, 2])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="g.onnx_data")
    weight.external_data.add(key="length", value="8")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Gelu", ["z"], ["y"], domain="com.x")]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.x", 1)]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], [weight]), opset_imports=opsets)
    helper.set_model_props(model, {"convert.precision": "fp16"})
    path = tmp_path / "g.onnx"
    path.write_bytes(model.SerializeToString())

    found = inspect_file(path)
    assert found.format == "ONNX"
    said = dict(found.metadata)
    assert said["input x"] == "float (batch, 2)"
    assert said["output y"] == "float (batch, 2)"
    assert (said["opset of ai.onnx"], said["opset of com.x"]) == (20, 1)
    assert said["operators outside of the standard"] == "1 of com.x::Gelu"
    assert said["weights in"] == "g.onnx_data"
    assert said["convert.precision"] == "fp16"
    assert [(t.name, t.type, t.shape, t.nbytes) for t in found.tensors] == [("w", "FLOAT16", (2, 2), 8)]
    assert "g.onnx_data" in "\n".join(found.lines())
    assert onnx.load(path, load_external_data=False).graph.name == "g"  # and the file is as it was


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.onnx", b"", "holds no graph"),
        ("a.onnx", b"\xff" * 40, "cannot be read"),
        ("a.engine", b"ftrt", "is a TensorRT engine"),
        ("a.bin", b"hello world", "a .safetensors, .gguf or .onnx file"),
    ],
)
def test_what_is_no_graph_is_told_in_a_line(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        inspect_file(path)
    assert said in str(caught.value)
