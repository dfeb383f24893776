"""What single runtimes want beside a model: Ollama, LM Studio, llamafile, Triton."""

from __future__ import annotations

import importlib.util
import json
import stat
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType

import pytest
from ruamel.yaml import YAML

from convert.errors import InputError
from convert.release import llamafile, lmstudio, triton
from convert.release.go_template import asked, renderer, translated
from convert.release.modelfile import modelfile, sampling
from convert.release.repository import lay_out
from convert.release.rows import Made
from tests import tiny
from tests.processes import run
from tests.release import go_templates
from tests.release.test_release_folder import publish

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
CHATML = (
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DEFAULT = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe good.<|im_end|>\n{% endif %}"
ZEPHYR = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
BRACES = (
    "{% for m in messages %}{{ '{{' }}{{ m.role }}}}{{ m.content }};{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}"
)


@pytest.mark.parametrize("template", [CHATML, ZEPHYR, BRACES, tiny.CHATML])
@pytest.mark.parametrize("adds_bos", [False, True])
def test_a_template_of_frames_is_said_in_go(template: str, adds_bos: bool) -> None:
    go = translated(template, SPECIAL, adds_bos=adds_bos)
    if adds_bos and template is not ZEPHYR:
        assert go is None, "the runtime's first token would be one too many"
        return
    assert go is not None
    theirs = renderer(template, SPECIAL)
    compared = 0
    for talk in asked():
        if any(not isinstance(m["content"], str) for m in talk.messages):
            continue
        known = [m for m in talk.messages if m["role"] in ("system", "user", "assistant")]
        if len(known) < len(talk.messages):
            continue
        wanted = theirs(talk.messages, True, talk.tools)
        assert go_templates.render(go, talk.messages) == wanted.removeprefix("<s>" if adds_bos else "")
        compared += 1
    assert compared >= 5


def test_a_default_system_message_is_said_where_there_is_none() -> None:
    late = "{% for m in messages if m.role == 'system' and not loop.first %}{{ raise_exception('x') }}{% endfor %}"
    late = late.replace(" and not loop.first", " and messages[0].role != 'system'")
    go = translated(late + DEFAULT + CHATML, SPECIAL, adds_bos=False)
    assert go is not None
    assert go.startswith("{{ if not .System }}<|im_start|>system\nBe good.<|im_end|>\n{{ else }}{{ end }}")
    talk = [{"role": "user", "content": "Hi"}]
    assert go_templates.render(go, talk) == renderer(DEFAULT + CHATML, SPECIAL)(talk, True, None)


@pytest.mark.parametrize(
    "template",
    [
        CHATML.replace("message.content", "message.content | trim"),  # Go's has no trim
        CHATML + "{% if tools %}{{ tools | tojson }}{% endif %}",
        CHATML.replace("message.content", "message.content.split('</think>')[-1]"),
        "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
        "{{ raise_exception('no') }}",
        "{% for m in messages %}{{ m.role.__class__ }}{% endfor %}",
        "{% for m in messages[-1:] %}{{ m.content }}{% endfor %}",
    ],
)
def test_a_template_that_does_more_is_left_as_it_is(template: str) -> None:
    assert translated(template, SPECIAL, adds_bos=False) is None


def test_a_modelfile_names_the_file_its_projector_and_how_to_sample(made: Made) -> None:
    (one,) = lay_out(made, made.rows, None)
    lines = modelfile(one.places[0], made.source).splitlines()
    assert lines[1:3] == ["FROM ./Tiny-VL-F16.gguf", "FROM ./mmproj-Tiny-VL-F16.gguf"]
    assert [line for line in lines if line.startswith("FROM")] == lines[1:3]
    assert list(sampling({"do_sample": False, "temperature": 0.7, "top_k": 20, "repetition_penalty": 1.1})) == [
        ("temperature", 0.0),
        ("repeat_penalty", 1.1),
    ]
    assert dict(sampling({"temperature": 0.7, "top_k": 20, "min_p": True})) == {"temperature": 0.7, "top_k": 20.0}


def test_the_modelfile_is_published(place: Path, measured: dict[str, str]) -> None:
    publish(place, ollama=True)
    home = place / "to/Tiny-VL-GGUF"
    assert "FROM ./Tiny-VL-Q8_0.gguf\n" in (home / "Modelfile").read_text()
    assert "ollama create tiny-vl-gguf -f Modelfile" in (home / "README.md").read_text()


def test_lm_studios_yaml(made: Made) -> None:
    (one,) = lay_out(made, made.rows, None)
    said = YAML(typ="safe").load(lmstudio.model_yaml(one, "Org", made.source))
    assert said["model"] == "org/tiny-vl"
    assert said["base"][0]["sources"] == [{"type": "huggingface", "user": "Org", "repo": "Tiny-VL-GGUF"}]
    assert said["metadataOverrides"]["architectures"] == ["qwen2_5_vl"]
    assert said["metadataOverrides"]["vision"] is True


def test_a_llamafile_is_an_executable_that_holds_the_model(place: Path, measured: dict[str, str]) -> None:
    binary = place / "llamafile"
    binary.write_bytes(b"#!/bin/sh\necho it ran\nexit 0\n")
    with zipfile.ZipFile(binary, "a") as archive:
        archive.writestr("usr/share/zoneinfo", "x")
    publish(place, llamafile=str(binary))
    home = place / "to/Tiny-VL-GGUF"
    made = home / "Tiny-VL-Q8_0.llamafile"
    assert made.stat().st_mode & stat.S_IXUSR
    assert run([str(made)], check=True, capture_output=True, text=True).stdout == "it ran\n"
    with zipfile.ZipFile(made) as archive:
        assert archive.testzip() is None
        assert archive.read(".args") == b"-m\n/zip/Tiny-VL-Q8_0.gguf\n--mmproj\n/zip/mmproj-Tiny-VL-F16.gguf\n...\n"
        assert archive.read("usr/share/zoneinfo") == b"x"
        entry = archive.getinfo("Tiny-VL-Q8_0.gguf")
        assert entry.compress_type == zipfile.ZIP_STORED
    raw = made.read_bytes()
    at = raw.index((home / "Tiny-VL-Q8_0.gguf").read_bytes())
    assert at % llamafile.ALIGNMENT == 0
    assert publish(place, llamafile=str(binary)).repositories[0].state == "unchanged"


def test_the_args_alone(place: Path, measured: dict[str, str]) -> None:
    publish(place, llamafile=True)
    assert (place / "to/Tiny-VL-GGUF/.args").read_text().startswith("-m\nTiny-VL-Q8_0.gguf\n")
    (place / "no.exe").write_bytes(b"MZ")
    with pytest.raises(InputError, match="is no llamafile"):
        publish(place, llamafile=str(place / "no.exe"))


def schema() -> ModuleType:
    """Triton's own protobuf schema, of its client; without that client's other dependencies."""
    pytest.importorskip("tritonclient")
    path = distribution("tritonclient").locate_file("tritonclient/grpc/model_config_pb2.py")
    spec = importlib.util.spec_from_file_location("model_config_pb2", str(path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tritons_configs_are_of_its_schema(tmp_path: Path) -> None:
    from google.protobuf import text_format

    known = schema()
    values = [triton.Value("input_ids", "INT64", (-1, -1)), triton.Value('odd "name"', "BF16", (1,))]
    for config in (
        triton.Config("a", "onnxruntime", values, values),
        triton.Config("a", "openvino", values, values, "model.onnx"),
        triton.Config("a", "tensorrt", values, values, platform="tensorrt_plan"),
        triton.Config("a", "vllm"),
    ):
        said = text_format.Parse(str(config), known.ModelConfig())
        assert said.name == "a"
        assert (said.backend or said.platform) in ("onnxruntime", "openvino", "tensorrt_plan", "vllm")
        assert [value.name for value in said.input] == [value.name for value in config.inputs]
    words = {*triton.ONNX_TYPES.values(), *triton.ENGINE_TYPES.values()}
    assert {f"TYPE_{word}" for word in words} <= set(known.DataType.keys())


def test_tritons_repository(made: Made, tmp_path: Path) -> None:
    """One graph with its data, as the onnx stage leaves them."""
    onnx = pytest.importorskip("onnx")
    from dataclasses import replace

    from convert.bundle import Artifact
    from convert.release_options import ReleaseOptions

    shape = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 4])]
    result = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 4])]
    weight = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="model.onnx_data")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "w"], ["y"])], "g", shape, result, [weight])
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "model.onnx"))
    (tmp_path / "model.onnx_data").write_bytes(bytes(16))
    files = [
        Artifact(kind, tmp_path / name, 1, "1" * 64)
        for kind, name in (("onnx/fp32", "model.onnx"), ("onnx-part/fp32", "model.onnx_data"))
    ]
    row = made.rows[0]
    row = replace(row, output=replace(row.output, weights=files[0], parts=(files[1],), projector=None), status="passed")
    found = triton.repository(made, [row], ReleaseOptions.model_validate({"triton": ["onnxruntime"]}))
    assert found is not None
    assert set(found.files) == {"Tiny-VL-fp32/1/model.onnx", "Tiny-VL-fp32/1/model.onnx_data"}
    config = found.texts["Tiny-VL-fp32/config.pbtxt"]
    assert 'input { name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] }' in config
    assert "w" not in json.dumps(config).replace("onnxruntime", "").replace("name", "")


def test_a_backend_that_nothing_is_for(place: Path, measured: dict[str, str]) -> None:
    from convert.errors import PlanError

    with pytest.raises(PlanError, match=r"triton: vllm, and no published output is for them"):
        publish(place, triton=["vllm"])
