"""Writing: where each weight lies, one in memory at a time, equal bytes each time, and files that the checker takes."""

from __future__ import annotations

import errno
import hashlib
import os
import weakref
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from convert.bundle import Artifact
from convert.errors import StageError
from convert.formats.onnx import write
from convert.formats.onnx.layouts import HUB, Names
from convert.formats.onnx.write import ALIGNMENT, PAGE_BYTES
from convert.progress import Silent
from convert.source.checkpoint import open_tensors
from tests.onnx.graphs import bound, open_graph, traced


def model_of(weights: dict[str, ir.TensorProtocol], op: str = "Add") -> ir.Model:
    """x + each weight's sum: a graph that reads every weight."""
    x = ir.Value(name="x", shape=ir.Shape(["n"]), type=ir.TensorType(ir.DataType.FLOAT))
    values, nodes, last = [], [], x
    for name, tensor in weights.items():
        value = ir.Value(name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        total = ir.Node("", "ReduceSum", [value], [ir.AttrInt64("keepdims", 0)], name=f"sum_{name}")
        total.outputs[0].name = f"{name}.sum"
        last = ir.Node("", op, [last, total.outputs[0]], name=f"add_{name}").outputs[0]
        last.name = f"{name}.added"
        nodes += [total, last.producer()]
        values.append(value)
    last.name, last.shape, last.type = "y", ir.Shape(["n"]), ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], [last], nodes=nodes, initializers=values, opset_imports={"": 20}, name="sums")
    return ir.Model(graph, ir_version=10)


def floats(count: int, seed: int = 0) -> ir.Tensor:
    return ir.Tensor(np.random.default_rng(seed).standard_normal(count).astype(np.float32))


def external(path: Path) -> dict[str, dict[str, str]]:
    """Name -> where the graph says its tensor lies; {} for one in the graph's own file."""
    graph = onnx.load(path, load_external_data=False).graph
    return {tensor.name: {entry.key: entry.value for entry in tensor.external_data} for tensor in graph.initializer}


def test_large_weights_lie_on_pages_and_small_ones_in_the_graph(tmp_path: Path) -> None:
    weights = {"scalar": floats(1), "small": floats(1000), "large": floats(1 << 16, 1), "last": floats(300, 2)}
    graph, (data,) = write.write(model_of(dict(weights)), tmp_path, Names("model"), {}, Silent())
    places = external(tmp_path / "model.onnx")
    assert places["scalar"] == {}
    assert int(places["small"]["offset"]) == 0
    assert int(places["large"]["offset"]) == PAGE_BYTES
    assert int(places["last"]["offset"]) % ALIGNMENT == 0
    assert {p.get("location") for p in places.values()} == {None, "model.onnx_data"}
    for artifact in (graph, data):
        content = artifact.path.read_bytes()
        assert (artifact.size, artifact.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    x = np.ones(2, np.float32)
    wanted = 1 + sum(float(t.numpy().sum(dtype=np.float64)) for t in weights.values())
    assert np.allclose(open_graph(tmp_path / "model.onnx").run(None, {"x": x})[0], wanted, atol=1e-2)


def test_equal_graphs_give_equal_bytes(tmp_path: Path) -> None:
    folder, graph = traced()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        model = bound(folder, graph, widen=True)
        write.write(model, tmp_path / name, Names("model", "_x"), {}, Silent())
    for name in ("model_x.onnx", "model_x.onnx_data"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert str(tmp_path).encode() not in (tmp_path / "a" / "model_x.onnx").read_bytes()


def test_a_file_of_weights_ends_before_it_is_too_large(tmp_path: Path) -> None:
    sizes = {"a": 3000, "b": 2000, "c": 6000, "d": 1500}  # float32: 12, 8, 24 and 6 kB
    weights = {name: floats(size, i) for i, (name, size) in enumerate(sizes.items())}
    _, data = write.write(model_of(dict(weights)), tmp_path, Names("model", "", 20_500), {}, Silent())
    assert [file.path.name for file in data] == ["model.onnx_data", "model.onnx_data_1", "model.onnx_data_2"]
    assert [file.size for file in data] == [12_032 + 8000, 24_000, 6000]  # a weight larger than that is by itself
    x = np.ones(1, np.float32)
    total = 1 + sum(tensor.numpy().sum() for tensor in weights.values())
    assert open_graph(tmp_path / "model.onnx").run(None, {"x": x})[0] == pytest.approx(total, rel=1e-4)
    assert HUB.piece_bytes is not None
    assert HUB.piece_bytes < 1 << 31  # one array of a browser


def test_one_weight_is_in_memory_at_a_time(tmp_path: Path) -> None:
    made: list[weakref.ref[np.ndarray]] = []
    most = 0

    def load() -> ir.Tensor:
        nonlocal most
        values = np.zeros(5000, np.float32)
        made.append(weakref.ref(values))
        most = max(most, sum(array() is not None for array in made))
        return ir.Tensor(values)

    names = [f"w{i}" for i in range(6)]
    weights = {n: ir.LazyTensor(load, ir.DataType.FLOAT, ir.Shape([5000]), name=n) for n in names}
    write.write(model_of(weights), tmp_path, Names("model"), {}, Silent())
    assert most == 1


def test_a_weight_of_another_size_than_it_says_is_not_written(tmp_path: Path) -> None:
    lying = ir.LazyTensor(lambda: floats(999), ir.DataType.FLOAT, ir.Shape([1000]), name="w")
    with pytest.raises(StageError, match="w has 3996 bytes, its type and shape say 4000"):
        write.write(model_of({"w": lying}), tmp_path, Names("model"), {}, Silent())
    assert list(tmp_path.iterdir()) == []


def test_what_the_checker_refuses_is_an_error_and_leaves_no_scratch(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"onnx's checker refuses model\.onnx \(.*No Op registered for Adding"):
        write.write(model_of({"w": floats(1000)}, "Adding"), tmp_path, Names("model"), {}, Silent())
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


# ---- shared files


def shared_graph(tmp_path: Path, weights: Path) -> tuple[Path, dict[Path, Artifact]]:
    """The graph of a tiny model over `weights`, a safetensors file, in a folder of its own."""
    out = tmp_path / "out"
    out.mkdir()
    made = write.share([Artifact("safetensors", weights, weights.stat().st_size, "0" * 64)], out, Silent())
    folder, graph = traced()
    names = {path: file.path.name for path, file in made.items()}
    _, data = write.write(bound(folder, graph), out, Names("model"), names, Silent())
    assert data == []
    return out, made


def test_shared_weights_are_the_checkpoints_file_under_a_second_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "_cloned", lambda source, target: False)  # as on a file system that cannot
    weights = traced()[0] / "model.safetensors"
    out, made = shared_graph(tmp_path, weights)
    assert (out / "model.safetensors").read_bytes() == weights.read_bytes()
    assert (out / "model.safetensors").samefile(weights)
    assert made[weights].sha256 == "0" * 64  # known: it is not read again
    lies = external(out / "model.onnx")["model.layers.0.mlp.up_proj.weight"]
    tensor = open_tensors(traced()[0])["model.layers.0.mlp.up_proj.weight"]
    raw = weights.read_bytes()[int(lies["offset"]) :][: int(lies["length"])]
    assert raw == tensor.load().tobytes()


def test_where_no_link_can_be_made_the_file_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(errno.EXDEV, "another disk")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(write, "_cloned", lambda source, target: False)
    weights = traced()[0] / "model.safetensors"
    out, _ = shared_graph(tmp_path, weights)
    assert (out / "model.safetensors").read_bytes() == weights.read_bytes()
    assert not (out / "model.safetensors").samefile(weights)


def test_a_tensor_that_does_not_start_at_a_multiple_of_its_size_is_written_apart(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(bytes(1) + np.arange(600, dtype=np.float32).tobytes())
    odd = ir.ExternalTensor(str(path), 1, 2400, ir.DataType.FLOAT, shape=ir.Shape([600]), name="w")
    _, (data,) = write.write(model_of({"w": odd}), tmp_path, Names("model"), {path: path.name}, Silent())
    assert data.path.read_bytes() == np.arange(600, dtype=np.float32).tobytes()
