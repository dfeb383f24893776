"""What runs engines, without a GPU: a TensorRT of our own computes with ONNX Runtime behind the same calls."""

from __future__ import annotations

import ctypes
import json
import shutil
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from convert.bundle import Artifact, Bundle, Model, Role
from convert.formats.tensorrt.stage import STAGE as stage
from convert.progress import Silent
from tests import tiny
from tests.fixtures_onnx_graphs import decoder
from validate import runtimes
from validate.runtimes import _tensorrt_engine as engines
from validate.runtimes import onnxruntime, tensorrt
from validate.runtimes._graph_session import GraphSession


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stage makes of a small decoder: a real engine, a real engine.json."""
    source = tiny.tiny_qwen2(tmp_path_factory.mktemp("onnx") / "tiny")
    ir.save(decoder(vocab=512), source / "model.onnx")
    names = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
    roles = {
        Role.WEIGHTS: (Artifact("onnx/fp32", source / "model.onnx", 1, "0"),),
        Role.CONFIG: (Artifact("json", source / "config.json", 1),),
        Role.TOKENIZER: tuple(Artifact("json", source / name, 1) for name in names),
    }
    out = tmp_path_factory.mktemp("engines")
    profiles = [{"name": "prefill", "sequence": [1, 8, 64], "past": [0, 0, 64]}]
    profiles += [{"name": "decode", "sequence": 1, "past": [1, 8, 64]}]
    asked = stage.Options.model_validate({"profiles": profiles})
    stage.run(asked, {"onnx": Bundle(Model("tiny"), roles)}, out, Silent())
    return out


@pytest.fixture
def faked(folder: Path, tmp_path: Path) -> Path:
    """The same folder, with an engine that the TensorRT below understands: it holds the path of its graph."""
    copy = shutil.copytree(folder, tmp_path / "engines")
    (copy / "model.engine").write_text(str(folder / "onnx" / "model.onnx"))
    return copy


class Context:
    """An execution context that finds its inputs by address, as TensorRT does, and asks ONNX Runtime."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.active, self.used = engine, 0, []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.made: dict[str, np.ndarray] = {}

    def set_optimization_profile_async(self, number: int, stream: int) -> bool:
        self.active = number
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.said["profiles"][self.active]["shapes"][name]
        self.shapes[name], self.made = shape, {}
        return all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True))

    def set_tensor_address(self, name: str, address: int) -> None:
        assert address, f"{name} has no address"
        self.addresses[name] = address

    def infer_shapes(self) -> list[str]:
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if not self.made:
            graph = self.engine.graph
            feeds = {name: self._read(name, port.dtype) for name, port in graph.inputs.items()}
            self.made = graph.run(feeds)
        return self.made[name].shape

    def _read(self, name: str, dtype: np.dtype) -> np.ndarray:
        shape = self.shapes[name]
        data = ctypes.string_at(self.addresses[name], int(np.prod(shape)) * dtype.itemsize)
        return np.frombuffer(data, dtype).reshape(shape)

    def execute_async_v3(self, stream: int) -> bool:
        self.used.append(self.active)
        for name, array in self.made.items():
            data = np.ascontiguousarray(array).tobytes()
            ctypes.memmove(self.addresses[name], data, len(data))
        return True


class Engine:
    """An engine whose file is the path of its graph."""

    def __init__(self, graph: Path, said: Mapping[str, Any]) -> None:
        self.graph, self.said = onnxruntime.OnnxGraph(graph, 1), said
        self.names = [*self.graph.inputs, *self.graph.outputs]
        self.num_io_tensors = len(self.names)
        self.contexts: list[Context] = []

    def get_tensor_name(self, i: int) -> str:
        return self.names[i]

    def create_execution_context(self) -> Context:
        self.contexts.append(Context(self))
        return self.contexts[-1]


def module(said: Mapping[str, Any] | None = None) -> Any:
    """A TensorRT for RTX, as far as it is called."""

    class ILogger:
        ERROR = 1

    class Runtime:
        engine_header_size = 4

        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
            if data == b"broken":
                self.logger.log("Severity.ERROR", "the plan is\n  damaged")
                return None
            assert said is not None
            made.engines.append(Engine(Path(data.decode()), said["engines"][0]))
            return made.engines[-1]

        def get_engine_validity(self, head: bytes) -> tuple[str, int]:
            return made.valid

    made = types.SimpleNamespace(
        __name__="tensorrt_rtx_bindings",
        __version__="1.7.1.116",
        ILogger=ILogger,
        Logger=lambda severity: None,
        Runtime=Runtime,
        EngineInvalidityDiagnostics=types.SimpleNamespace(
            __members__={"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2, "OLD_CUDA_DRIVER": 4}
        ),
        valid=("EngineValidity.INVALID", 2),
        engines=[],
    )
    made.Logger.ERROR = 1  # type: ignore[attr-defined]
    return made


def open_fake(folder: Path) -> tuple[GraphSession, Any]:
    said = tensorrt.read_sidecar(folder)
    trt = module(said)

    def load(path: Path) -> engines.EngineGraph:
        return engines.EngineGraph(path, tensorrt._entry(said, path), trt, torch, "cpu")

    return GraphSession(folder / "model.engine", load), trt


# ---- running


def test_an_engine_answers_as_its_graph_does(folder: Path, faked: Path) -> None:
    session, trt = open_fake(faked)
    graphs = shutil.copytree(faked, faked.with_name("graphs"))
    shutil.copy(folder / "onnx" / "model.onnx", graphs / "model.onnx")
    with session, onnxruntime.RUNTIME.open(graphs / "model.onnx", threads=1) as reference:
        tokens = session.tokenize("Click the button, then 42.")
        wanted = reference.logits(tokens)
        np.testing.assert_allclose(session.logits(tokens), wanted, atol=1e-6)
        np.testing.assert_allclose(session.decode_logits(tokens), wanted, atol=1e-4)
        assert session.generate(tokens, 5) == reference.generate(tokens, 5)
        # prompt; tokens one by one, of which the first has no past; prompt, then one by one
        (context,) = trt.engines[0].contexts
        assert context.used[: 1 + len(tokens)] == [0, 0, *[1] * (len(tokens) - 1)]
        assert context.used[1 + len(tokens)] == 0
        assert set(context.used[2 + len(tokens) :]) <= {1}


def test_what_no_profile_takes_is_said_with_the_profiles(faked: Path) -> None:
    session, _ = open_fake(faked)
    words = (
        r"model\.engine has no profile for input_ids 1x65, attention_mask 1x65, position_ids 1x65: "
        r"prefill takes input_ids of 1x1 to 1x64; prefill takes position_ids of 1x1 to 1x64"
    )
    with session, pytest.raises(runtimes.RuntimeFailure, match=words):
        session.logits([1] * 65)


def test_of_two_profiles_the_smaller_is_taken() -> None:
    large, small = {"x": ((1, 1), (1, 64))}, {"x": ((1, 1), (1, 1))}
    assert engines.best_profile([("large", large), ("small", small)], {"x": (1, 1)}, "e") == 1
    assert engines.best_profile([("small", small), ("large", large)], {"x": (1, 2)}, "e") == 1
    with pytest.raises(runtimes.RuntimeFailure, match="no profile for x 1x1x1"):
        engines.best_profile([("small", small)], {"x": (1, 1, 1)}, "e")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "int32", "bool"])
@pytest.mark.parametrize("shape", [(2, 3), (1, 2, 0, 4), (1,)])
def test_arrays_come_back_as_they_went(dtype: str, shape: tuple[int, ...]) -> None:
    from validate.runtimes._graph_session import numpy_type

    array = (np.arange(np.prod(shape)) % 3).reshape(shape).astype(numpy_type(dtype))
    tensor = engines.to_torch(torch, array, "cpu")
    assert tensor.numel() >= 1
    assert tensor.dtype == getattr(torch, dtype)
    back = engines.to_numpy(torch, tensor, shape, array.dtype)
    assert back.dtype == array.dtype
    assert back.shape == shape
    assert back.tobytes() == array.tobytes()


def test_an_engine_that_does_not_load_is_quoted(faked: Path) -> None:
    (faked / "model.engine").write_text("broken")
    with pytest.raises(runtimes.RuntimeFailure, match=r"could not load model\.engine: the plan is damaged"):
        open_fake(faked)


def test_an_engine_that_is_not_the_one_described_is_refused(faked: Path) -> None:
    said = json.loads((faked / "engine.json").read_text())
    said["engines"][0]["outputs"][0]["name"] = "scores"
    (faked / "engine.json").write_text(json.dumps(said))
    with pytest.raises(runtimes.RuntimeFailure, match=r"name other tensors: logits, scores"):
        open_fake(faked)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here the engine may well load")
def test_tensorrt_itself_says_that_there_is_no_device(folder: Path) -> None:
    said = tensorrt.read_sidecar(folder)
    entry = tensorrt._entry(said, folder / "model.engine")
    with pytest.raises(runtimes.RuntimeFailure, match="CUDA driver version is insufficient"):
        engines.EngineGraph(folder / "model.engine", entry, tensorrt._module(), torch, "cpu")


# ---- before anything is loaded


def test_without_a_device_it_is_this_machine_not_the_engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "12.9")
    runtime = runtimes.for_format("tensorrt")
    assert runtime is not None
    assert runtime.available() is None
    assert runtime.lacks() == "no CUDA device"
    with pytest.raises(runtimes.NotOnThisMachine, match="no CUDA device"):
        runtimes.open_session(runtime, folder / "model.engine")


def test_without_tensorrt_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "_module", lambda: None)
    assert "pip install 'convert-quantize-validate[tensorrt]'" in str(tensorrt.RUNTIME.available())


def test_without_anything_one_command_installs_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "_module", lambda: None)
    monkeypatch.setattr(tensorrt.importlib.util, "find_spec", lambda name: None)
    said = "TensorRT and torch and transformers not installed: pip install 'convert-quantize-validate[onnx,tensorrt]'"
    assert tensorrt.RUNTIME.available() == said


def test_it_says_what_ran() -> None:
    assert tensorrt.RUNTIME.version().startswith("TensorRT for RTX 1.")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"flavour": "TensorRT"}, "was built by TensorRT, here is TensorRT for RTX: install the former, or rebuild it"),
        ({"version": "1.6.0.9"}, r"was built by TensorRT for RTX 1\.6\.0\.9, here is 1\.7\.1\.116"),
        (
            {"compute_capabilities": ["12.0"]},
            r"built for compute capabilities 12\.0, this GPU has 8\.6; TensorRT says: ",
        ),
    ],
)
def test_an_engine_for_another_machine_is_refused(folder: Path, change: dict[str, Any], words: str) -> None:
    said = {**tensorrt.read_sidecar(folder), "version": "1.7.1.116", **change}
    with pytest.raises(runtimes.NotOnThisMachine, match=words):
        tensorrt.check(said, folder / "model.engine", module(), "8.6")


def test_an_engine_for_this_machine_is_not(folder: Path) -> None:
    said = {**tensorrt.read_sidecar(folder), "version": "1.7.1.116"}
    tensorrt.check(said, folder / "model.engine", module(), "8.6")
    newer = {**said, "version": "1.6.0.9", "options": {"version_compatible": True}}
    tensorrt.check(newer, folder / "model.engine", module(), "8.6")
    with pytest.raises(runtimes.NotOnThisMachine):
        tensorrt.check({**newer, "version": "1.8.0.0"}, folder / "model.engine", module(), "8.6")


def test_of_a_gpu_that_nobody_listed_tensorrt_has_the_last_word(folder: Path) -> None:
    """Its engines run on later GPUs than it can list."""
    said, trt = {**tensorrt.read_sidecar(folder), "version": "1.7.1.116"}, module()
    with pytest.raises(runtimes.NotOnThisMachine, match=r"9\.0; TensorRT says: INVALID \(UNSUPPORTED_CC\)"):
        tensorrt.check(said, folder / "model.engine", trt, "9.0")
    trt.valid = ("EngineValidity.SUBOPTIMAL", 0)
    tensorrt.check(said, folder / "model.engine", trt, "9.0")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 2}'])
def test_a_broken_sidecar_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "engine.json").write_text(text)
    with pytest.raises(runtimes.RuntimeFailure, match=r"engine\.json cannot be read"):
        tensorrt.read_sidecar(tmp_path)
    with pytest.raises(runtimes.RuntimeFailure, match=r"engine\.json cannot be read: FileNotFoundError"):
        tensorrt.read_sidecar(tmp_path / "nowhere")
