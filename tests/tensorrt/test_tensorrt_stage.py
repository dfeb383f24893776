"""Engines built by TensorRT for RTX, here, without a GPU; and everything that is refused before or while they are."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper as h

from convert.bundle import Artifact, Bundle, Model, Role
from convert.errors import ConvertError, StageError
from convert.formats.tensorrt import choice, flavours, worker
from convert.formats.tensorrt.graphs import Tensor, read_graph
from convert.formats.tensorrt.profiles import Made, Profile, defaults, of_graph, shapes
from convert.formats.tensorrt.stage import STAGE as tensorrt
from convert.progress import Silent
from tests import tiny
from tests.fixtures_onnx_graphs import decoder

RTX = flavours.Flavour(flavours.RTX, "tensorrt_rtx_bindings", "1.7.1.116", ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1"))
DATA_CENTRE = flavours.Flavour(flavours.DATA_CENTRE, "tensorrt", "11.4.1", ())


class Notes(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    warn = note


def options(**asked: Any) -> tensorrt.Options:
    return tensorrt.Options.model_validate(asked)


def bundle_of(folder: Path, *weights: Artifact, projector: tuple[Artifact, ...] = ()) -> Bundle:
    """What an onnx stage hands on: graphs, and the companions beside them."""
    hashed = tuple(dataclasses.replace(a, sha256="0" * 64) for a in weights)
    config = Artifact("json", folder / "config.json", 1)
    tokenizer = tuple(Artifact("json", folder / name, 1) for name in ("tokenizer.json", "tokenizer_config.json"))
    roles = {Role.WEIGHTS: hashed, Role.PROJECTOR: projector, Role.CONFIG: (config,), Role.TOKENIZER: tokenizer}
    return Bundle(Model("tiny"), {role: files for role, files in roles.items() if files})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A decoder's graph with its weights in a file of its own, and companions."""
    folder = tiny.tiny_qwen2(tmp_path_factory.mktemp("onnx") / "tiny")
    ir.save(decoder(vocab=512), folder / "model.onnx", external_data="model.onnx_data")
    graph, data = folder / "model.onnx", folder / "model.onnx_data"
    return bundle_of(
        folder,
        Artifact("onnx/fp32", graph, graph.stat().st_size),
        Artifact("onnx-part/fp32", data, data.stat().st_size),
    )


@pytest.fixture(scope="module")
def built(source: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bundle, list[str]]:
    out, notes = tmp_path_factory.mktemp("engines"), Notes()
    return out, tensorrt.run(options(), {"onnx": source}, out, notes), notes.lines


def one_graph(folder: Path, *nodes: onnx.NodeProto, **opsets: int) -> Bundle:
    """A graph of a few nodes from x to y, both (batch, sequence, 8)."""
    shape = ["batch", "sequence", 8]
    x, y = (h.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "xy")
    graph = h.make_graph(list(nodes), "g", [x], [y])
    imports = [h.make_opsetid("", 20), *(h.make_opsetid(name.replace("_", "."), v) for name, v in opsets.items())]
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(h.make_model(graph, opset_imports=imports, ir_version=10), folder / "model.onnx")
    return bundle_of(folder, Artifact("onnx/fp32", folder / "model.onnx", 1))


def problems(source: Bundle, **asked: Any) -> list[str]:
    return [str(problem) for problem in tensorrt.check(options(**asked), {"onnx": source})]


# ---- what is built


def test_the_folder_holds_the_engine_and_what_rebuilds_it(built: tuple[Path, Bundle, list[str]]) -> None:
    out, made, _ = built
    kinds = {a.path.relative_to(out).as_posix(): a.kind for a in made.of(Role.WEIGHTS)}
    assert kinds == {
        "model.engine": "tensorrt/fp32",
        "engine.json": "tensorrt-part/fp32",
        "onnx/model.onnx": "onnx-source/fp32",
        "onnx/model.onnx_data": "onnx-source/fp32",
    }
    files = {path for path in out.rglob("*") if path.is_file()}
    assert {a.path for _, a in made.artifacts()} == files
    assert {path.name for path in files} >= {"config.json", "tokenizer.json", "tokenizer_config.json"}


def test_the_engine_is_hashed_as_it_lies_there(built: tuple[Path, Bundle, list[str]]) -> None:
    import hashlib

    engine = built[1].of(Role.WEIGHTS)[0]
    data = engine.path.read_bytes()
    assert (engine.size, engine.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert data[:4] == b"vtrt"  # TensorRT for RTX's mark


def test_the_graphs_are_linked_not_copied(source: Bundle, built: tuple[Path, Bundle, list[str]]) -> None:
    given = source.of(Role.WEIGHTS)[1].path
    assert (built[0] / "onnx" / given.name).stat().st_ino == given.stat().st_ino


def test_the_engine_says_what_it_needs(source: Bundle, built: tuple[Path, Bundle, list[str]]) -> None:
    said = json.loads((built[0] / "engine.json").read_text())
    assert said["schema_version"] == 1
    assert said["flavour"] == flavours.RTX
    assert said["version"] == flavours.find().version  # type: ignore[union-attr]
    assert said["compute_capabilities"] == ["8.0", "8.6", "8.9", "12.0", "12.1"]
    (entry,) = said["engines"]
    assert (entry["file"], entry["onnx"], entry["data"]) == ("model.engine", "onnx/model.onnx", ["model.onnx_data"])
    assert entry["onnx_sha256"] == source.of(Role.WEIGHTS)[0].sha256
    assert [profile["name"] for profile in entry["profiles"]] == ["prefill", "decode"]
    assert entry["profiles"][1]["shapes"]["past_key_values.0.key"] == [[1, 2, 1, 16], [1, 2, 511, 16], [1, 2, 511, 16]]
    inputs = {tensor["name"]: tensor for tensor in entry["inputs"]}
    assert inputs["attention_mask"] == {"name": "attention_mask", "dtype": "int64", "shape": ["batch", "total"]}
    assert {tensor["name"] for tensor in entry["outputs"]} >= {"logits", "present.1.value"}


def test_the_log_has_the_layers(built: tuple[Path, Bundle, list[str]]) -> None:
    layers = [line for line in built[2] if " layer: " in line]
    assert f"model.engine: {len(layers)} layers" in built[2]
    assert any("LayerType: gemm" in line and "Datatype: Float" in line for line in layers)
    assert not any("I/O Tensors" in line for line in layers)


def test_the_log_does_not_cry_over_the_gpu_it_does_without(built: tuple[Path, Bundle, list[str]]) -> None:
    assert not any("error" in line for line in built[2])
    assert any("Engine generation completed" in line for line in built[2])


def test_the_forecast_names_the_files_that_are_made(source: Bundle, built: tuple[Path, Bundle, list[str]]) -> None:
    out, made, _ = built
    forecast = tensorrt.forecast(options(), {"onnx": source})
    new = {a.path.as_posix() for _, a in forecast.artifacts() if not a.path.is_absolute()}
    ours = {a.path.relative_to(out).as_posix() for _, a in made.artifacts()}
    assert new == {path for path in ours if not path.startswith("onnx/")}  # those are links: no new bytes


def test_what_is_asked_for_is_in_the_engine(source: Bundle, tmp_path: Path) -> None:
    asked = options(
        compute_capabilities=[8.6, "12.0"],
        profiles=[{"name": "all", "batch": [1, 1, 3], "sequence": [1, 8, 64], "past": [0, 8, 64]}],
        weight_streaming=True,
        tf32=True,
        workspace="1G",
    )
    tensorrt.run(asked, {"onnx": source}, tmp_path, Silent())
    said = json.loads((tmp_path / "engine.json").read_text())
    assert said["compute_capabilities"] == ["8.6", "12.0"]
    assert said["options"] == {
        "tf32": True,
        "weight_streaming": True,
        "refittable": False,
        "version_compatible": False,
        "workspace_bytes": 10**9,
    }
    (profile,) = said["engines"][0]["profiles"]
    assert profile["shapes"]["attention_mask"] == [[1, 1], [1, 16], [3, 128]]
    assert profile["name"] == "all"


def test_float32_stays_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT's own default rounds the inputs of float32 products to 10 bits."""
    trt = FakeTensorRT()
    worker._config(trt, trt, trt, worker.Job("m", "g", "e", ()))
    assert "TF32" not in trt.set
    worker._config(trt, trt, trt, worker.Job("m", "g", "e", (), flags=("TF32", "REFIT")))
    assert {"TF32", "REFIT"} <= trt.set


def test_a_timing_cache_is_read_and_written(tmp_path: Path) -> None:
    old, new = tmp_path / "old.cache", tmp_path / "new.cache"
    old.write_bytes(b"known")
    trt, job = FakeTensorRT(), worker.Job("m", "g", "e", (), timing_cache=str(old), new_timing_cache=str(new))
    config = worker._config(trt, trt, trt, job)
    worker._keep_timing_cache(config, job)
    assert new.read_bytes() == b"known and more"


class FakeTensorRT:
    """As much of TensorRT's module, builder, network and configuration as a configuration needs."""

    BuilderFlag = types.SimpleNamespace(TF32="TF32", REFIT="REFIT")
    ProfilingVerbosity = types.SimpleNamespace(DETAILED=1)
    num_inputs = 0

    def __init__(self) -> None:
        self.set = {"TF32"}
        self.cache = b""

    def create_builder_config(self) -> FakeTensorRT:
        return self

    def set_flag(self, flag: str) -> None:
        self.set.add(flag)

    def clear_flag(self, flag: str) -> None:
        self.set.discard(flag)

    def create_timing_cache(self, known: bytes) -> bytes:
        return known

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> None:
        self.cache = cache + b" and more"

    def get_timing_cache(self) -> Any:
        return types.SimpleNamespace(serialize=lambda: self.cache)


# ---- what TensorRT does not take


def test_every_refused_node_is_named_with_its_module(tmp_path: Path) -> None:
    nodes = [
        h.make_node("Relu", ["x"], ["a"], name="relu"),
        h.make_node("Unique", ["a"], ["u"], name="node_unique"),
        h.make_node("StringNormalizer", ["a"], ["b"], name="node_strings"),
        h.make_node("Add", ["a", "b"], ["y"], name="add"),
    ]
    for node, where in zip(nodes[1:3], ("model.layers.0.mlp (MLP)", "model.layers.1.norm (Norm)"), strict=True):
        node.metadata_props.add(key="source", value=where)
    bundle = one_graph(tmp_path / "onnx", *nodes)
    (tmp_path / "out").mkdir()
    profile = {"name": "p", "sequence": 4}
    for role in (Role.CONFIG, Role.TOKENIZER):
        bundle = bundle.with_(**{role: ()})
    with pytest.raises(StageError) as caught:
        tensorrt.run(options(profiles=[profile]), {"onnx": bundle}, tmp_path / "out", Silent())
    assert str(caught.value).splitlines() == [
        "model.onnx: TensorRT's parser refuses 2 nodes of 4:",
        "  Unique node_unique of model.layers.0.mlp (MLP): it has no such operator",
        "  StringNormalizer node_strings of model.layers.1.norm (Norm): it has no such operator",
    ]


def test_a_builder_that_fails_is_quoted(source: Bundle, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"builder failed: .*workspace limit.*; give it more with `workspace`"):
        tensorrt.run(options(workspace="1M"), {"onnx": source}, tmp_path, Silent())
    assert not (tmp_path / "model.engine").exists()


def test_a_builder_that_dies_says_how(source: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from convert.formats.tensorrt import build

    monkeypatch.setattr(build, "WORKER", "tests.tensorrt.dies")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    with pytest.raises(StageError, match=r"TensorRT's process was stopped by SIGABRT: .*these are my last words"):
        tensorrt.run(options(), {"onnx": source}, tmp_path, Silent())


def test_an_interrupted_build_ends_at_once_and_leaves_no_engine(source: Bundle, tmp_path: Path) -> None:
    class Interrupted(Silent):
        def note(self, text: str) -> None:
            if "Input filename" in text:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tensorrt.run(options(), {"onnx": source}, tmp_path, Interrupted())
    assert not list(tmp_path.glob("*.engine"))
    assert not list(tmp_path.glob(".build-*"))


# ---- what is said before anything runs


@pytest.mark.parametrize(
    ("kinds", "asked", "said"),
    [
        (["onnx-genai/int4"], {}, "has flavor: genai, whose graphs are for ONNX Runtime"),
        (["safetensors"], {}, "stage 'onnx' gives safetensors weights, wanted the graphs of `use: onnx`"),
        (["onnx/int4"], {}, "gives int4: its MatMulNBits is an operator of com.microsoft"),
        (["onnx/int8"], {}, "gives int8: its DynamicQuantizeLinear and MatMulInteger"),
        (["onnx/fp32", "onnx/int4"], {"precision": "int4"}, "its MatMulNBits"),
        (["onnx/fp32"], {"precision": "fp16"}, "makes no fp16, wanted one of fp32; "),
    ],
)
def test_graphs_that_it_cannot_take(tmp_path: Path, kinds: list[str], asked: dict[str, str], said: str) -> None:
    weights = [Artifact(kind, tmp_path / f"{kind.replace('/', '_')}.onnx", 1) for kind in kinds]
    (problem,) = problems(bundle_of(tmp_path, *weights), **asked)
    assert said in problem


def test_the_first_usable_precision_is_taken(tmp_path: Path) -> None:
    kinds = ("onnx/int8", "onnx/fp16", "onnx/fp32")
    weights = [Artifact(kind, tmp_path / f"model_{kind[5:]}.onnx", 1) for kind in kinds]
    chosen = choice.choose({"onnx": bundle_of(tmp_path, *weights)}, choice.BuildSettings())
    assert (chosen.precision, chosen.main.path.name) == ("fp16", "model_fp16.onnx")


def test_a_model_that_sees_has_three_engines(tmp_path: Path) -> None:
    names = ("decoder_model_merged_fp16.onnx", "embed_tokens_fp16.onnx", "vision_encoder_fp16.onnx")
    main, embed, vision = (Artifact("onnx/fp16", tmp_path / name, 1) for name in names)
    embed = dataclasses.replace(embed, kind="onnx-part/fp16")
    other = Artifact("onnx-part/fp32", tmp_path / "embed_tokens.onnx", 1)
    made = tensorrt.forecast(
        options(precision="fp16"), {"onnx": bundle_of(tmp_path, main, embed, other, projector=(vision,))}
    )
    found = {a.path.name: (role, a.kind) for role, a in made.artifacts() if a.path.suffix == ".engine"}
    assert found == {
        "model.engine": (Role.WEIGHTS, "tensorrt/fp16"),
        "embed_tokens.engine": (Role.WEIGHTS, "tensorrt-part/fp16"),
        "vision_encoder.engine": (Role.PROJECTOR, "tensorrt/fp16"),
    }
    assert "embed_tokens.onnx" not in {a.path.name for _, a in made.artifacts()}


def test_operators_of_another_domain_are_named(tmp_path: Path) -> None:
    node = h.make_node("MatMulNBits", ["x"], ["y"], name="n", domain="com.microsoft")
    (problem,) = problems(one_graph(tmp_path, node, com_microsoft=1))
    assert "model.onnx: has 1 of com.microsoft::MatMulNBits, wanted standard operators" in problem


def test_options_that_this_tensorrt_has_not(source: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flavours, "find", lambda: RTX)
    monkeypatch.setattr(flavours, "has_driver", lambda: False)
    asked = {"compute_capabilities": ["8.5"], "timing_cache": True, "version_compatible": True, "refittable": True}
    said = problems(source, **asked)
    assert len(said) == 4
    assert "compute_capabilities: TensorRT for RTX 1.7.1.116 builds nothing for '8.5', wanted one of 7.5" in said[0]
    assert "did you mean 8." in said[0]
    assert "timing_cache: TensorRT for RTX 1.7.1.116 times no kernels" in said[1]
    assert "runtime cache" in said[1]
    assert "version_compatible: TensorRT for RTX 1.7.1.116 has no lean runtime" in said[2]
    assert "refittable: " in said[3]
    assert ["strip_weights: " in problem for problem in problems(source, strip_weights=True)] == [True]
    monkeypatch.setattr(flavours, "has_driver", lambda: True)
    assert problems(source, refittable=True) == []
    assert problems(source, strip_weights=True) == []


def test_an_engine_without_its_weights_is_its_kernels(source: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flavours, "find", lambda: DATA_CENTRE)
    whole, stripped = (tensorrt.forecast(options(strip_weights=strip), {"onnx": source}) for strip in (False, True))
    sizes = [{a.path.name: a.size for a in b.of(Role.WEIGHTS)}["model.engine"] for b in (whole, stripped)]
    assert sizes[1] == 2 * (4 << 20)  # two profiles
    assert sizes[0] > sizes[1]
    from convert.formats.tensorrt.choice import BuildSettings

    assert BuildSettings(strip_weights=True).flags == ("STRIP_PLAN",)


def test_data_centre_tensorrt_builds_for_the_gpu_it_sees(source: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flavours, "find", lambda: DATA_CENTRE)
    monkeypatch.setattr(flavours, "has_driver", lambda: False)
    assert [line.partition(";")[0] for line in problems(source, compute_capabilities=["8.6"], timing_cache=True)] == [
        "compute_capabilities: TensorRT 11.4.1 builds for the GPU that is present",
        "tensorrt: TensorRT 11.4.1 builds on a CUDA device, and there is none",
    ]
    monkeypatch.setattr(flavours, "has_driver", lambda: True)
    assert problems(source, timing_cache=True, version_compatible=True, refittable=True) == []
    assert tensorrt.tools(options()) == ("onnx", "tensorrt")


def test_without_any_tensorrt_it_says_how_to_get_one(source: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flavours, "find", lambda: None)
    (problem,) = problems(source)
    assert (
        "of tensorrt and tensorrt_rtx_bindings none can be imported; pip install 'convert-quantize-validate[tensorrt]'"
        in problem
    )
    with pytest.raises(ConvertError, match="none can be imported"):
        tensorrt.run(options(), {"onnx": source}, Path("nowhere"), Silent())


def test_a_stub_is_not_taken_for_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is called tensorrt on PyPI imports, and has nothing in it until its vendor was asked."""
    stub = types.ModuleType("tensorrt")
    stub.__version__ = "10.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", stub)
    flavours.find.cache_clear()
    try:
        found = flavours.find()
        assert found is not None
        assert found.name == flavours.RTX
        assert found.capabilities == RTX.capabilities
    finally:
        flavours.find.cache_clear()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"profiles": [{"name": "p", "sequence": [4, 1, 8]}]}, "is no range"),
        ({"profiles": [{"name": "p", "sequence": [1, 2]}]}, "is no range"),
        ({"profiles": [{"name": "p", "sequence": True}]}, "is no range"),
        ({"profiles": [{"name": "p", "batch": 2}]}, "names neither sequence"),
        ({"profiles": [{"name": "p", "sequence": 1}, {"name": "p", "sequence": 2}]}, "two profiles are called p"),
        ({"profiles": [{"name": "p", "sequence": 1, "length": 3}]}, "length"),
        ({"workspace": "a lot"}, "is no size"),
    ],
)
def test_options_that_make_no_sense(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        options(**asked)


# ---- profiles


def _header(**axes: Any) -> Any:
    tensors = tuple(Tensor(name, "int64", shape) for name, shape in axes.items())
    return types.SimpleNamespace(inputs=tensors, axes=tuple(s for t in tensors for s in t.shape if isinstance(s, str)))


@pytest.mark.parametrize(
    ("positions", "prefill", "decode"),
    [(None, 2048, 4096), (32768, 2048, 4096), (512, 512, 511), (1, 1, 1)],
)
def test_the_defaults_end_where_the_model_does(positions: int | None, prefill: int, decode: int) -> None:
    header = _header(input_ids=("batch", "sequence"), past=("batch", 2, "past", 16), mask=("batch", "total"))
    first, second = defaults(header, Made(positions))
    assert (first.ranges["sequence"][2], second.ranges["past"][2]) == (prefill, decode)
    for profile in (first, second):
        for low, usual, high in profile.ranges.values():
            assert low <= usual <= high
    assert shapes(second, header.inputs, "g")["mask"] == ((1, 2), (1, 1 + min(1024, decode)), (1, 1 + decode))


def test_a_vision_graph_has_its_own(tmp_path: Path) -> None:
    header = _header(pixel_values=("patches", 1176), image_grid_thw=("images", 3))
    (image,) = of_graph(header, [Profile("text", {"sequence": (1, 1, 4)})], Made(patches=1024))
    assert shapes(image, header.inputs, "g") == {
        "pixel_values": ((4, 1176), (1024, 1176), (1024, 1176)),
        "image_grid_thw": ((1, 3), (1, 3), (4, 3)),
    }
    assert of_graph(header, [Profile("mine", {"patches": (4, 8, 16)})], Made())[0].name == "mine"


def test_embeddings_are_not_built_twice() -> None:
    header = _header(input_ids=("batch", "sequence"))
    assert [profile.name for profile in of_graph(header, [], Made())] == ["prefill"]
    asked = [Profile("one", {"sequence": (1, 1, 1)}), Profile("many", {"sequence": (1, 4, 8), "batch": (1, 1, 2)})]
    assert [profile.name for profile in of_graph(header, asked, Made())] == ["many"]


def test_an_axis_that_nobody_knows_is_named(tmp_path: Path) -> None:
    bundle = one_graph(tmp_path, h.make_node("Relu", ["x"], ["y"], name="r"))
    model = onnx.load(tmp_path / "model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "s26"
    onnx.save(model, tmp_path / "model.onnx")
    (problem,) = problems(bundle)
    assert "model.onnx: x has an axis 's26', wanted an axis of sequence, patches, batch, images, past" in problem


def test_sums_of_axes_are_understood() -> None:
    profile = Profile("p", {"sequence": (1, 2, 3), "past": (0, 5, 7)})
    tensors = [Tensor("a", "int64", ("past + sequence",)), Tensor("b", "int64", ("sequence + 1", 4))]
    assert shapes(profile, tensors, "g") == {"a": ((1,), (7,), (10,)), "b": ((2, 4), (3, 4), (4, 4))}


# ---- headers


def test_a_header_is_read_without_the_weights(source: Bundle) -> None:
    header = read_graph(source.of(Role.WEIGHTS)[0].path)
    assert header.axes == ("batch", "sequence", "total", "past")
    assert header.data == ("model.onnx_data",)
    assert header.custom == {}
    assert not {tensor.name for tensor in header.inputs} & {"lm_head.weight"}


def test_what_is_no_graph_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(np.arange(100, dtype=np.uint8).tobytes())
    (problem,) = problems(bundle_of(tmp_path, Artifact("onnx/fp32", tmp_path / "model.onnx", 100)))
    assert "model.onnx: cannot be read" in problem
