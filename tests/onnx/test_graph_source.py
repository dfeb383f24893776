"""An ONNX file as the source: other precisions of it, how far they are from it, and files that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.bundle import Bundle, Role
from convert.errors import InputError
from convert.formats.onnx.pixels import preprocessing
from convert.formats.onnx.stage import STAGE
from convert.progress import Silent
from convert.source.stage import STAGE as SOURCE
from tests.onnx.graphs import open_graph

CLASSES, SIDE = 5, 32


def classifier(path: Path, outside: str = "") -> Path:
    """A small network of convolutions; with `outside`, one of its weights is said to lie in that file."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)
    shapes = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (16, 8, 3, 3), "w3": (CLASSES, 16), "b3": (CLASSES,)}
    weights = [
        numpy_helper.from_array((draw.normal(size=shape) * 0.3).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["pixel_values", "w1", "b1"], ["c1"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["logits"], transB=1),
    ]
    if outside:
        weights[0].ClearField("raw_data")
        weights[0].data_location = TensorProto.EXTERNAL
        weights[0].external_data.add(key="location", value=outside)
    given = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
    made = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])
    graph = helper.make_graph(nodes, "net", [given], [made], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def pictures(folder: Path, count: int) -> Path:
    """Images that differ from one another, in colour and in what is on them."""
    from PIL import Image

    folder.mkdir()
    draw = np.random.default_rng(1)
    for number in range(count):
        pixels = draw.integers(0, 256, (6, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((80, 60)).save(folder / f"{number:02}.png")
    return folder


def source_of(path: Path) -> Bundle:
    """The source stage's bundle; nothing is wrong with it."""
    options = SOURCE.Options(path=path)
    assert SOURCE.check(options, {}) == []
    assert SOURCE.reads(options)[0] == path
    return SOURCE.run(options, {}, path.parent, Silent())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bundle]:
    """The network in three precisions, calibrated on fifteen pictures and measured on five."""
    folder = tmp_path_factory.mktemp("graph")
    source = source_of(classifier(folder / "net.onnx"))
    images = pictures(folder / "images", 20)
    options = STAGE.Options(precision=["fp32", "fp16", "int8"], images=[images], layout="flat")
    assert STAGE.check(options, {"source": source}) == []
    (folder / "out").mkdir()
    return folder, STAGE.run(options, {"source": source}, folder / "out", Silent())


def test_every_precision_runs_and_ranks_as_the_source(made: tuple[Path, Bundle]) -> None:
    folder, _ = made
    draw = np.random.default_rng(2)
    pixels = draw.normal(size=(4, 3, SIDE, SIDE)).astype(np.float32)
    wanted = open_graph(folder / "net.onnx").run(None, {"pixel_values": pixels})[0]
    for name, limit in {"model.onnx": 1e-6, "model_fp16.onnx": 5e-3, "model_int8.onnx": 0.1}.items():
        got = open_graph(folder / "out" / name).run(None, {"pixel_values": pixels})[0]
        assert got.dtype == np.float32
        assert np.abs(got - wanted).max() < limit * max(1, np.abs(wanted).max()), name
        if name != "model.onnx":
            assert np.abs(got - wanted).max() > 0, name


def test_int8_is_standard_operators_around_zero_and_fp16_convolves_in_half(made: tuple[Path, Bundle]) -> None:
    import onnx
    from onnx import numpy_helper

    folder, _ = made
    model = onnx.load(folder / "out" / "model_int8.onnx")
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    steps = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert {node.domain for node in model.graph.node} == {""}
    assert all(not numpy_helper.to_array(held[node.input[2]]).any() for node in steps)  # what TensorRT takes
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    makers = {output: node for node in model.graph.node for output in node.output}
    assert all(makers[node.input[1]].op_type == "DequantizeLinear" for node in convolutions)
    half = onnx.load(folder / "out" / "model_fp16.onnx")
    kinds = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert {kinds[node.input[1]] for node in half.graph.node if node.op_type == "Conv"} == {onnx.TensorProto.FLOAT16}


def test_what_calibrated_nothing_is_measured(made: tuple[Path, Bundle]) -> None:
    _, bundle = made
    (report,) = bundle.of(Role.REPORT)
    found = json.loads(report.path.read_text())
    assert found["images"] == 5
    assert found["outputs"]["fp32"]["cosine_min"] == pytest.approx(1)
    assert 0.99 < found["outputs"]["int8"]["cosine_min"] < 1
    assert {artifact.kind for artifact in bundle.of(Role.WEIGHTS)} >= {"onnx/fp32", "onnx/fp16", "onnx/int8-qdq"}


def test_weights_outside_of_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(4096))
    home = tmp_path / "model"
    home.mkdir()
    for name in ("../secret", "/etc/passwd", str(tmp_path / "secret")):
        options = SOURCE.Options(path=classifier(home / "net.onnx", name))
        (problem,) = SOURCE.check(options, {})
        assert "net.onnx" in str(problem), name


def test_a_constant_inside_of_a_branch_may_not_lie_outside_either(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    away = TensorProto(name="away", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    away.external_data.add(key="location", value="../secret")
    one = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    branch = helper.make_graph([helper.make_node("Constant", [], ["y"], value=away)], "b", [], [one])
    node = helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    chosen = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    graph = helper.make_graph([node], "g", [chosen], [helper.make_tensor_value_info("z", TensorProto.FLOAT, [2])])
    (tmp_path / "net.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    assert onnx is not None
    (problem,) = SOURCE.check(SOURCE.Options(path=tmp_path / "net.onnx"), {})
    assert "secret" in str(problem)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param({"precision": "int8"}, "calibrated on images, and there are 0", id="no images"),
        pytest.param({"precision": "int4"}, "int4 is not made of a graph", id="int4"),
        pytest.param({"images": ["nowhere"]}, "does not exist", id="no such folder"),
    ],
)
def test_what_cannot_be_made_of_a_graph(words: dict[str, Any], said: str, tmp_path: Path) -> None:
    source = source_of(classifier(tmp_path / "net.onnx"))
    problems = STAGE.check(STAGE.Options(**words), {"source": source})
    assert said in str(problems[0])


def test_a_text_file_is_no_graph_and_no_picture(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_text("hello")
    (problem,) = SOURCE.check(SOURCE.Options(path=tmp_path / "net.onnx"), {})
    assert "no ONNX graph" in str(problem)
    how = preprocessing((1, 3, 4, 4), {})
    with pytest.raises(InputError, match="is no image"):
        how(tmp_path / "net.onnx")


def test_images_become_what_the_preprocessor_says(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.full((20, 40, 3), 51, np.uint8)).save(tmp_path / "grey.png")
    said = {"size": {"shortest_edge": 16}, "crop_size": {"height": 8, "width": 12}, "image_mean": [0.1] * 3}
    made = preprocessing(("batch", 3, "height", "width"), said | {"image_std": [0.5] * 3})(tmp_path / "grey.png")
    assert made.shape == (1, 3, 8, 12)
    assert np.allclose(made, (0.2 - 0.1) / 0.5)
    last = preprocessing((1, 10, 10, 3), {"do_normalize": False, "do_rescale": False})(tmp_path / "grey.png")
    assert last.shape == (1, 10, 10, 3)
    assert np.allclose(last, 51)
